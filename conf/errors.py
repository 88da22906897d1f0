"""The errors that this project raises on purpose, each with the exit code of a program that it ends.

::

    AppError                      1   (and every unexpected failure)
    ├── SettingsError             2   an option, environment variable or configuration key is wrong
    ├── InputError                3   the pictures cannot be found or listed
    ├── ModelError                4   no model, or one that cannot be used
    │   ├── NoModelError              the registry has no current model
    │   └── BundleError               a bundle is incomplete or was changed
    ├── OutputError               5   the output does not allow what was asked
    │   ├── LeaseHeldError            another stream writes to this output
    │   └── LeaseLostError            this stream's lease was taken by another
    ├── StorageError              6   the store refused: permission, full disk, unreachable
    │   ├── NotFoundError             nothing under this name
    │   ├── AlreadyExistsError        create-if-absent met an existing file
    │   ├── ConflictError             replace-if-unchanged met a changed file
    │   ├── RefusedError              access is denied
    │   └── TransientError            the store fails now; the same request may succeed later
    ├── PlatformError             7   Java, Python or a package is missing or of the wrong version
    └── UnhealthyError            8   status --check: the stream is not healthy

A message is one line for the user: what was wrong, which value, what to do. A file of settings with several mistakes
has a line for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class AppError(Exception):
    """An error whose message is meant for the user; `exit_code` is the program's exit code."""

    exit_code: ClassVar[int] = 1


class SettingsError(AppError):
    """An option, an environment variable or a configuration key has a wrong value."""

    exit_code = 2


class InputError(AppError):
    """The pictures cannot be found or listed."""

    exit_code = 3


class ModelError(AppError):
    """There is no model, or it cannot be used."""

    exit_code = 4


class NoModelError(ModelError):
    """The registry has no current model."""


class BundleError(ModelError):
    """A bundle is incomplete or its content does not match its hashes."""


class OutputError(AppError):
    """The output does not allow what was asked."""

    exit_code = 5


class LeaseHeldError(OutputError):
    """Another stream writes to this output."""


class LeaseLostError(OutputError):
    """This stream's lease expired and was taken by another."""


class StorageError(AppError):
    """The store refused a request: permission, full disk, unreachable."""

    exit_code = 6


class NotFoundError(StorageError):
    """There is nothing under this name."""


class AlreadyExistsError(StorageError):
    """Create-if-absent met an existing file."""


class ConflictError(StorageError):
    """Replace-if-unchanged met a file that another process has changed."""


class RefusedError(StorageError):
    """Access is denied."""


class TransientError(StorageError):
    """The store fails now, and the same request may succeed later."""


class PlatformError(AppError):
    """Java, Python or a package is missing or of the wrong version."""

    exit_code = 7


class UnhealthyError(AppError):
    """A stream is dead, does not look for pictures, or is behind."""

    exit_code = 8


def one_line_each(summary: str, mistakes: Sequence[str]) -> str:
    """The message for mistakes that were found together; the only one stands alone."""
    if len(mistakes) == 1:
        return mistakes[0]
    return "".join((f"{len(mistakes)} {summary}:", *(f"\n  {mistake}" for mistake in mistakes)))
