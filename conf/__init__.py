"""Settings, errors, logging and the Spark session: the code that both programs share and that is not about pictures."""

__version__ = "0.2.0.dev0"

COMMAND = "picture-features"
"""The command of the installed package."""
