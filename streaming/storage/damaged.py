"""Names a file of ours that is damaged, as a power cut or a bad copy leaves it; libraries do not say which one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from conf.errors import OutputError

REMEDY = "restore it, or delete it"


@contextmanager
def naming(path: str, remedy: str = REMEDY) -> Iterator[None]:
    """Name the file if its content, which is read in the context, cannot be read; the remedy is in the imperative.

    Raises:
        OutputError: in place of an error of PyArrow or of JSON.
    """
    try:
        yield
    except MemoryError:  # one of PyArrow's is an ArrowException, too
        raise
    except (pa.ArrowException, ValueError, LookupError, TypeError, OSError) as error:
        raise OutputError(f"{path} cannot be read: {type(error).__name__}: {error}; {remedy}") from error
