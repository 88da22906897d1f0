"""Spark and its Java: finds, configures, starts and ends them."""
