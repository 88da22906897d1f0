"""From the URI of a picture to its features: the code that the fit and the stream share, and that knows no Spark."""
