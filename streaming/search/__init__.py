"""Similar pictures and duplicates, from the features in a table; no Spark, and no index."""
