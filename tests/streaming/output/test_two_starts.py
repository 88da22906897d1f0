"""What a start creates, another start may create at the same moment: neither of the two fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from streaming.lease.denylist import make_salt
from streaming.output import lineage
from streaming.output.format_number import begin_format
from streaming.output.lineage import Derivative
from streaming.output.manifests import prepare_log
from streaming.output.tables import Tables
from streaming.storage.folder import Folder
from tests.support.trap import ANY_CALL, TrapFolder


def _prepare_tables(output: Folder) -> None:
    Tables(output, with_embeddings=True).prepare()


def _record_registry(output: Folder) -> None:
    lineage.record(output, Derivative("models", "/models"))


@pytest.mark.parametrize("create", [begin_format, prepare_log, _prepare_tables, _record_registry, make_salt])
def test_two_starts_at_the_same_moment_both_succeed(output: Folder, create: Callable[[Folder], object]) -> None:
    """A former holder that was paused at its start is one of them."""
    for nth in itertools.count(1):
        output.delete_tree("")
        trapped = TrapFolder(output, nth, ANY_CALL, partial(create, output))
        create(trapped)
        if trapped.left > 0:
            break
    assert nth > 1
