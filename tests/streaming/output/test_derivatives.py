"""Derivatives: what an output remembers of where its rows went."""

from __future__ import annotations

import pytest

from conf.errors import OutputError
from streaming.output.lineage import LINEAGE_FOLDER, Derivative, derivatives, record
from streaming.storage.folder import Folder


def test_what_is_recorded_twice_is_there_once(output: Folder) -> None:
    """However its URI is written; kinds at one place are apart."""
    assert derivatives(output) == []
    for uri in ("s3a://bucket/100%25/é ", "s3://bucket/100%25/é /"):
        record(output, Derivative("export", uri))
    record(output, Derivative("models", "/models"))
    record(output, Derivative("export", "/models/../exports"))
    assert derivatives(output) == [
        Derivative("export", "/exports"),
        Derivative("export", "s3://bucket/100%25/é "),
        Derivative("models", "/models"),
    ]


def test_a_relative_place_is_recorded_as_an_absolute_one(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is found from any other folder."""
    monkeypatch.chdir("/")
    record(output, Derivative("export", "exports"))
    assert derivatives(output) == [Derivative("export", "/exports")]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"kind": "export"}', b'{"kind": "export", "uri": "/elsewhere"}'])
def test_a_record_that_was_changed_is_refused_by_name(output: Folder, data: bytes) -> None:
    """Erasing all but one derivative in silence would be worse than erasing none."""
    record(output, Derivative("export", "/exports"))
    [name] = output.names(LINEAGE_FOLDER)
    _, tag = output.read_tagged(name)
    output.replace(name, data, tag)
    with pytest.raises(OutputError, match=r"export-.* does not name an export or a registry"):
        derivatives(output)
