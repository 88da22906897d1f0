"""Starts the Python workers of a local Spark, which share the modules that this process has imported.

PySpark's own daemon forks each worker, too, but imports little beforehand: each worker would spend half a second on it.
And it finds PySpark in zip files that Spark puts on the path, which each task would read again (55 ms of
`importlib.invalidate_caches`). Here it is the installed one, as in the driver.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

from conf.without_pandas import keep_out_pandas

_MODULES = "PRELOADED_MODULES"


def preloading(*modules: str) -> dict[str, str]:
    """The Spark property by which workers find these modules imported."""
    return {f"spark.executorEnv.{_MODULES}": " ".join(modules)}


def _leave_out_archives() -> None:
    """Import nothing from the archives on the path."""
    sys.path[:] = [entry for entry in sys.path if not entry.endswith((".zip", ".jar"))]
    sys.path_importer_cache.clear()


if __name__ == "__main__":
    keep_out_pandas()
    _leave_out_archives()
    from pyspark.daemon import manager

    for name in os.environ.get(_MODULES, "").split():
        import_module(name)
    gc.freeze()  # PySpark collects garbage after each task, and would look at all of this again: 25 ms
    manager()  # type: ignore[no-untyped-call] # PySpark's
