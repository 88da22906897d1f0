"""The long-running job: new pictures become rows of a Parquet table, exactly once."""

from conf import __version__

__all__ = ["__version__"]
