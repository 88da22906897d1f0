"""Settings, errors, logging and the Spark session: what both programs share and what knows nothing of pictures."""
