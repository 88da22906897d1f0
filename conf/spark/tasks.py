"""Tells a Spark worker whether its task is a retry; a separate module, because workers need nothing else of Spark."""

from __future__ import annotations

from pyspark import TaskContext


def is_retry() -> bool:
    """Whether the present task was tried before; then its worker or its executor may have died of it."""
    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0
