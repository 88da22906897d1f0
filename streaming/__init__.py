"""The long-running job: new pictures become rows of a Parquet table, exactly once."""
