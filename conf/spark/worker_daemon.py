"""Starts the Python workers of a local Spark, which share the modules that this process has imported.

PySpark's own daemon forks each worker, too, but imports little beforehand: each worker would spend half a second on it.
"""

from __future__ import annotations

import os
from importlib import import_module

from conf.without_pandas import keep_out_pandas

_MODULES = "PRELOADED_MODULES"


def preloading(*modules: str) -> dict[str, str]:
    """The Spark property by which workers find these modules imported."""
    return {f"spark.executorEnv.{_MODULES}": " ".join(modules)}


if __name__ == "__main__":
    keep_out_pandas()
    from pyspark.daemon import manager

    for name in os.environ.get(_MODULES, "").split():
        import_module(name)
    manager()  # type: ignore[no-untyped-call] # PySpark's
