"""Which attempt at a task of Spark this process is working on.

It owns this one question, in a module of its own because workers ask it, who have no use for the rest of Spark's
configuration.
"""

from __future__ import annotations

from pyspark import TaskContext


def is_retry() -> bool:
    """Whether the task in work was tried before, in which case its worker or its executor may have died of it."""
    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0
