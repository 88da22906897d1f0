"""Features: the code that turns the URI of a picture into its features, shared by fit and stream, without Spark."""
