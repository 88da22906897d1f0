"""The conditional write that decides the outcome of a manifest, and the steps that complete it.

Two attempts at one manifest may see different outcomes: a picture vanished meanwhile, the model changed, a driver was
paused for minutes. One write therefore decides all of it: the features file, which is created only if absent. Its
footer holds the rows of quarantine, or says that the manifest was withdrawn. The quarantine file is derived from that
footer, by any process that finds it missing or derived from another decision, and so no order of kills and no late
writer can make the two tables disagree::

    features file, in its footer
      picture-features              the figures of the micro-batch: see `batch_report`
      picture-features.quarantine   the rows of quarantine, as Parquet in base64; none if there are none
      picture-features.decision     names these rows; the quarantine file made from them carries the same
      picture-features.embeddings   names the staged embeddings of its rows: see `embeddings`; none if none are kept
      picture-features.withdrawn    instead of the above: the manifest has no outcome
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from conf.errors import AlreadyExistsError, ConflictError, NotFoundError
from streaming.features.schema import FEATURES, QUARANTINE
from streaming.output.manifests import manifest_name, table_file
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder
from streaming.storage.parquet import Footer, as_parquet, footer_of, read_footer, rows_in, unique

FEATURES_TABLE = "features"
QUARANTINE_TABLE = "quarantine"
FEATURES_REMEDY = (
    "restore it from a copy; deleting it loses its rows for good, unless _manifests still has its manifest, whose "
    "pictures a stream featurizes again then"
)
"""For a file of the table features that is damaged."""

_REJECTED = b"picture-features.quarantine"
_NAME = b"picture-features.decision"
_EMBEDDINGS = b"picture-features.embeddings"
_WITHDRAWN = b"picture-features.withdrawn"
_AT_ONCE = 16  # each is a request of 30 ms on S3


@dataclass(frozen=True)
class Decision:
    """The decision about a manifest, as the footer of its features file holds it.

    Attributes:
        rejected: `schema.QUARANTINE`.
        name: of these rows, as they were decided; None if there were none.
        embeddings: the name of the staged embeddings of the features' rows; None if none are kept.
        withdrawn: whether the manifest has no outcome, because its pictures are in others.
    """

    rejected: pa.Table
    name: bytes | None
    embeddings: str | None = None
    withdrawn: bool = False

    @classmethod
    def of(cls, rejected: pa.Table, embeddings: str | None = None) -> Decision:
        """The decision to put these rows into quarantine, and to keep these embeddings of all others."""
        return cls(rejected, _digest(rejected) if len(rejected) else None, embeddings)

    @classmethod
    def in_footer(cls, footer: Footer) -> Decision:
        """The decision in a footer; empty in one of release 0.1.0, which wrote the quarantine file first."""
        rejected, embeddings = rejected_in(footer), footer.get(_EMBEDDINGS)
        return cls(
            rejected=QUARANTINE.empty_table() if rejected is None else rejected,
            name=footer.get(_NAME),
            embeddings=embeddings.decode() if embeddings else None,
            withdrawn=_WITHDRAWN in footer,
        )

    def as_footer(self) -> Footer:
        """The decision in the form that `in_footer` reads."""
        rejected = {_NAME: self.name, _REJECTED: _encode(self.rejected)} if self.name else {}
        return rejected | ({_EMBEDDINGS: self.embeddings.encode()} if self.embeddings else {})


def _digest(rejected: pa.Table) -> bytes:
    return hashlib.sha256(as_parquet(rejected)).hexdigest()[:16].encode()


def _encode(rejected: pa.Table) -> bytes:
    return base64.b64encode(as_parquet(rejected))


def rejected_in(footer: Footer) -> pa.Table | None:
    """The rows of quarantine that the footer of a Parquet file holds, `schema.QUARANTINE`; None if it holds none."""
    if _REJECTED not in footer:
        return None
    return rows_in(base64.b64decode(footer[_REJECTED]))


def with_rejected(footer: Footer, rejected: pa.Table) -> Footer:
    """The same footer with fewer rows of quarantine, which keep the name of the decision."""
    return {**footer, _REJECTED: _encode(rejected)}


def decide(output: Folder, manifest: str, features: pa.Table, decision: Decision, footer: Footer) -> bool:
    """Decide a manifest, and complete it; False if another process did so first, whose decision stands.

    The decision is about the pictures that are not in `features`, `schema.FEATURES`; `footer` is put beside it.
    """
    try:
        output.create(_features_file(manifest), as_parquet(features, {**footer, **decision.as_footer()}))
    except AlreadyExistsError:
        complete_manifest(output, manifest)
        return False
    if decision.name:
        complete_manifest(output, manifest)
    return True


def withdraw(output: Folder, manifest: str) -> bool:
    """Decide that a manifest has no outcome, and take it out of the log; False if it has one already.

    Before the call, its pictures must be in another manifest or requested.
    """
    with suppress(AlreadyExistsError):
        output.create(_features_file(manifest), as_parquet(FEATURES.empty_table(), {_WITHDRAWN: b"true"}))
    return complete_manifest(output, manifest).withdrawn


def is_decided(output: Folder, manifest: str) -> bool:
    """Whether a manifest has an outcome, or was withdrawn."""
    return output.exists(_features_file(manifest))


def read_decision(output: Folder, manifest: str) -> Decision:
    """The decision about a manifest.

    Raises:
        NotFoundError: there is none yet.
        OutputError: its file is damaged.
    """
    name = _features_file(manifest)
    with naming(output.path(name), FEATURES_REMEDY):
        return Decision.in_footer(read_footer(output, name, FEATURES_REMEDY))


def complete_manifest(output: Folder, manifest: str) -> Decision:
    """Complete a manifest that was decided: write its quarantine file, or delete a withdrawn manifest. Idempotent."""
    while True:
        decision = read_decision(output, manifest)
        if decision.withdrawn:
            output.delete(manifest_name(manifest))
            return decision
        with suppress(ConflictError):  # another process has changed the quarantine file meanwhile: look again
            _derive_quarantine(output, manifest, decision)
            return decision


def complete_manifests(output: Folder, decided: Sequence[str]) -> list[str]:
    """`complete_manifest` for many manifests; returns those that were not withdrawn."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        decisions = threads.map(partial(complete_manifest, output), decided)
        return [manifest for manifest, decision in zip(decided, decisions, strict=True) if not decision.withdrawn]


def _derive_quarantine(output: Folder, manifest: str, decision: Decision) -> None:
    """Create the quarantine file of a decision, unless it is there.

    Rows that a retry or `forget` took out of it stay out. A file that was not made from this decision is replaced: its
    features file was deleted by hand, or an attempt of release 0.1.0 was killed.

    Raises:
        ConflictError: another process changed the file meanwhile.
    """
    if decision.name is None:
        return
    name, footer = table_file(QUARANTINE_TABLE, manifest), {_NAME: decision.name}
    try:
        output.create(name, as_parquet(decision.rejected, footer))
    except AlreadyExistsError:
        present, tag = output.read_tagged(name)
        with naming(output.path(name)):
            made_from = footer_of(present).get(_NAME)
        if made_from != decision.name:
            output.replace(name, as_parquet(decision.rejected, unique(footer)), tag)


def empty_quarantine(output: Folder, manifest: str) -> None:
    """Take all rows out of the quarantine file of a manifest that is not decided, if there is one.

    Such a file exists if the features file was deleted by hand, or an attempt of release 0.1.0 was killed. Its rows
    would stay beside those of the next attempt, which may have no rows for quarantine.
    """
    with suppress(NotFoundError, ConflictError):  # a conflict: another process has just decided, and completed it
        _, tag = output.read_tagged(name := table_file(QUARANTINE_TABLE, manifest))
        if not is_decided(output, manifest):  # asked after the tag was taken: what is derived from now on has another
            output.replace(name, as_parquet(QUARANTINE.empty_table()), tag)


def _features_file(manifest: str) -> str:
    return table_file(FEATURES_TABLE, manifest)
