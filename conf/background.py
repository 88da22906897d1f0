"""Work that goes on in a thread of its own, while its caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def in_background(work: Callable[[], _Result], name: str) -> Future[_Result]:
    """Begin with `work`; the future gives what it returns, or raises what it raises.

    The thread is a daemon: a program that gives up does not wait for it, as for one of an executor.

    Args:
        work: to do.
        name: of the thread.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
