"""The table of embeddings: exactly the rows of the features, whoever decided a manifest and whatever was killed.

An attempt stages its embeddings before it decides, under a name made of their content; its decision names them, and
from then on they are published, by any process that finds them unfinished::

    1. _embeddings/<manifest>-<name>.parquet          create: the staged file of one attempt
    2. features/date=.../<manifest>.parquet           create: decides, and names the staged file in its footer
    3. embeddings/date=.../<manifest>.parquet         create: the published file, whose footer has the same name
    4. _embeddings/<manifest>-<name>.parquet          delete

A staged file is deleted only once its manifest is decided: what a late attempt may still name stays. That of a losing
attempt is never published.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, OutputError
from streaming.features.schema import EMBEDDINGS, FEATURE_COUNT
from streaming.output.decision import FEATURES_TABLE, is_decided, read_decision
from streaming.output.manifests import table_file
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder
from streaming.storage.parquet import (
    Footer,
    as_parquet,
    footer_of,
    parquet_files,
    read_footer,
    read_size,
    rows_in,
    unique,
)

EMBEDDINGS_TABLE = "embeddings"
STAGED_FOLDER = "_embeddings"

_NAME = b"picture-features.embeddings"
_SUFFIX = ".parquet"
_LOOKED_INTO = 100


@dataclass(frozen=True)
class Staged:
    """The embeddings of an attempt at a manifest.

    Attributes:
        manifest: its id.
        name: made of the rows; the decision of the attempt has it.
        data: the content of the file.
    """

    manifest: str
    name: str
    data: bytes = field(repr=False)

    @property
    def file(self) -> str:
        """The staged file."""
        return f"{STAGED_FOLDER}/{self.manifest}-{self.name}{_SUFFIX}"

    def publish(self, output: Folder) -> None:
        """Publish what the decision of its manifest names. Idempotent.

        Rows that `forget` took out of the published file stay out. A file that was not made from this decision is
        replaced: its features file was deleted by hand.
        """
        published = table_file(EMBEDDINGS_TABLE, self.manifest)
        while True:
            with suppress(ConflictError):  # another process has changed it meanwhile: look again
                try:
                    output.create(published, self.data)
                except AlreadyExistsError:
                    if not self._made(read_footer(output, published)):
                        present, tag = output.read_tagged(published)
                        if not self._made(footer_of(present)):  # the tag is of what is looked at here
                            rows = rows_in(self.data)
                            output.replace(published, as_parquet(rows, unique({_NAME: self.name.encode()})), tag)
                break
        output.delete(self.file)

    def _made(self, footer: Footer) -> bool:
        """Whether a published file was made from the decision that names these embeddings."""
        return footer.get(_NAME) == self.name.encode()


def stage(output: Folder, manifest: str, embeddings: pa.Table) -> Staged | None:
    """Write the embeddings of an attempt, `schema.EMBEDDINGS`, before it decides; None if there are no rows."""
    if not len(embeddings):
        return None
    name = _digest(embeddings)
    staged = Staged(manifest, name, as_parquet(embeddings, {_NAME: name.encode()}))
    with suppress(AlreadyExistsError):  # the same rows, by an attempt that was killed
        output.create(staged.file, staged.data)
    return staged


def publish_staged(output: Folder, manifest: str | None = None) -> None:
    """Publish the staged embeddings of decided manifests, or of one, and delete those that lost. Idempotent."""
    for file in list(parquet_files(output, STAGED_FOLDER)):
        of, _, name = file.rpartition("/")[2].removesuffix(_SUFFIX).rpartition("-")
        if manifest in (None, of):
            with suppress(NotFoundError):  # it is not decided, or another process has just published it
                if read_decision(output, of).embeddings == name:
                    Staged(of, name, output.read(file)).publish(output)
                else:
                    output.delete(file)


def clear(output: Folder, manifest: str) -> None:
    """Take all rows out of the published file of a manifest that is not decided, if there is one.

    Such a file exists if the features file was deleted by hand.
    """
    with suppress(NotFoundError, ConflictError):  # a conflict: another process has just decided, and published
        _, tag = output.read_tagged(name := table_file(EMBEDDINGS_TABLE, manifest))
        if not is_decided(output, manifest):  # asked after the tag was taken: what is published from now on has another
            output.replace(name, as_parquet(EMBEDDINGS.empty_table()), tag)


def _digest(embeddings: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, embeddings.schema) as writer:
        writer.write_table(embeddings.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def embeddings_files(output: Folder, since: date | None = None, until: date | None = None) -> list[str]:
    """The published files of the days from `since` to `until`, both included, in order."""
    return _files(output, EMBEDDINGS_TABLE, since, until)


def files_without_embeddings(
    output: Folder, there: Sequence[str], since: date | None = None, until: date | None = None
) -> int:
    """The number of files of the table features, of these days, that have no file beside them; 0 if none has rows.

    `there` are the `embeddings_files` of these days. Of many files, only some are looked into.
    """
    beside = {name.removeprefix(EMBEDDINGS_TABLE) for name in there}
    features = _files(output, FEATURES_TABLE, since, until)
    alone = [name for name in features if name.removeprefix(FEATURES_TABLE) not in beside]
    looked_into = alone[:: math.ceil(len(alone) / _LOOKED_INTO) or 1]
    return len(alone) if any(_has_rows(output, name) for name in looked_into) else 0


def _files(output: Folder, table: str, since: date | None, until: date | None) -> list[str]:
    """The files of a table with rows, perhaps, in order."""
    first, last = (f"{table}/date={day}/" if day else None for day in (since, until))
    return sorted(
        name
        for name in parquet_files(output, table)
        if (first is None or name >= first) and (last is None or name[: len(last)] <= last)
    )


def has_embeddings(output: Folder) -> bool:
    """Whether any published file has rows, or cannot be read."""
    return any(_has_rows(output, name) for name in parquet_files(output, EMBEDDINGS_TABLE))


def _has_rows(output: Folder, name: str) -> bool:
    try:
        return read_size(output, name).rows > 0
    except NotFoundError:  # deleted meanwhile
        return False
    except OutputError:  # whoever needs its rows will say so
        return True


def read_embeddings(path: str, data: bytes, columns: Sequence[str] = EMBEDDINGS.names) -> pa.Table:
    """The rows of a published file with this content, with these columns of `schema.EMBEDDINGS`.

    Raises:
        OutputError: the file is damaged, or its embeddings have another length.
    """
    with naming(path, "restore it, or delete it to do without its rows"):
        table = rows_in(data, columns)
        table = table.cast(pa.schema([EMBEDDINGS.field(name) for name in columns]))
    if "embedding" in columns:
        lengths = pc.unique(pc.list_value_length(table.column("embedding"))).to_pylist()
        if lengths not in ([], [FEATURE_COUNT]):
            raise OutputError(
                f"{path} has embeddings of {sorted(lengths)} numbers, not {FEATURE_COUNT}: somebody has changed it; "
                "restore it, or delete it to do without its rows"
            )
    return table
