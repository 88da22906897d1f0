"""Every error that this project raises on purpose, with the exit code that it ends a program with.

::

    AppError                      1   (and every failure that nobody foresaw)
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
    │   ├── RefusedError              this one thing may not be read
    │   ├── ArchivedError             this one thing is in an archive
    │   └── TransientError            the store fails now; the same request may succeed later
    └── PlatformError             7   Java, Python or a package is missing or of the wrong version

A message is one line for the person who reads it: what was wrong, which value, what to do.
"""

from __future__ import annotations

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
    """This stream's lease ran out and was taken by another."""


class StorageError(AppError):
    """The store refused a request: permission, full disk, unreachable."""

    exit_code = 6


class NotFoundError(StorageError):
    """There is nothing under this name."""


class AlreadyExistsError(StorageError):
    """Create-if-absent met an existing file."""


class ConflictError(StorageError):
    """Replace-if-unchanged met a file that somebody else has changed."""


class RefusedError(StorageError):
    """This one thing may not be read."""


class ArchivedError(StorageError):
    """This one thing has to be restored from an archive before it can be read."""


class TransientError(StorageError):
    """The store fails now, and the same request may succeed later."""


class PlatformError(AppError):
    """Java, Python or a package is missing or of the wrong version."""

    exit_code = 7
