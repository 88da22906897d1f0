"""Handles SIGINT, SIGTERM and SIGHUP.

The first signal interrupts the program: the callbacks of `before_unwinding` run, and `KeyboardInterrupt` unwinds the
main thread, so that leases are released. Inside `shielded` it is delayed to the end; inside `draining` it is replaced
by a request to finish the work. The second signal ends the process at once.

It imports the standard library only: a program handles signals while it imports the rest, which takes seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_logger = logging.getLogger(__name__)


class _Handler:
    """The state of the one handler that a process has."""

    def __init__(self) -> None:
        self.received: str | None = None
        self.interrupted: str | None = None
        self.drain: Callable[[], None] | None = None
        self.shields = 0
        self.deferred = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            _give_all_up()
            # Nothing is lost: uncommitted work is repeated at the next start.
            os._exit(EXIT_CODE)
        self.received = signal.Signals(number).name
        if self.drain:
            self.drain()
            _logger.info(
                "%s: finishing the running micro-batch, then stopping; a second signal stops at once", self.received
            )
        elif self.shields:
            self.deferred = True
        else:
            self.interrupt()

    def interrupt(self) -> None:
        """Unwind the main thread.

        Raises:
            KeyboardInterrupt: always, with the name of the signal.
        """
        self.deferred = False
        self.interrupted = self.received
        _give_all_up()
        raise KeyboardInterrupt(self.received)


_handler = _Handler()
_give_up: list[Callable[[], object]] = []


def before_unwinding(give_up: Callable[[], object]) -> None:
    """Call `give_up` at each interruption, and before the process ends at once."""
    _give_up.append(give_up)


def _give_all_up() -> None:
    for give_up in _give_up:
        give_up()


def _install(handler: Callable[[int, FrameType | None], object]) -> Callable[[], None]:
    """Install a handler; returns the function that restores the former ones."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    former = {number: signal.getsignal(number) for number in _SIGNALS}
    if former[signal.SIGHUP] == signal.SIG_IGN:  # nohup
        del former[signal.SIGHUP]
    for number in former:
        signal.signal(number, handler)

    def restore() -> None:
        for number, one in former.items():
            signal.signal(number, one)

    return restore


def exit_at_once(code: int) -> None:
    """From now on a signal ends the process with an exit code; for a program that has not begun anything yet."""
    _install(lambda _number, _frame: os._exit(code))


@contextmanager
def handled() -> Iterator[None]:
    """Handle signals inside the context as this module describes."""
    _handler.received = _handler.interrupted = None
    _handler.deferred = False
    restore = _install(_handler)
    try:
        yield
    finally:
        restore()


def interrupted_by() -> str | None:
    """The signal that interrupted the program, if any: later failures are its consequence."""
    return _handler.interrupted


def received() -> str | None:
    """The signal that was sent to the program, if any: one that interrupted it, or that it drains for."""
    return _handler.received


@contextmanager
def shielded() -> Iterator[None]:
    """Delay interruption to the end of the context, which must be short.

    Raises:
        KeyboardInterrupt: at the end, if a signal came meanwhile; it replaces any other exception, which might
            otherwise be retried.
    """
    _handler.shields += 1
    try:
        yield
    finally:
        _handler.shields -= 1
        if _handler.deferred and not _handler.shields:
            _handler.interrupt()


@contextmanager
def draining(drain: Callable[[], None]) -> Iterator[None]:
    """Inside the context, the first signal only calls `drain`, and the work goes on until it ends by itself."""
    _handler.drain = drain
    try:
        yield
    finally:
        _handler.drain = None
