"""The known pictures of an output: all that some manifest has listed.

They are in the compact record of finished manifests, OUTPUT/_known, or in the manifests that are still in the log;
discovery holds both in memory as a set.

A former holder of the lease, paused in the middle of a fold, must not add to the record what was forgotten meanwhile.
So a fold announces its file by one without rows, confirms the lease, and then replaces the announcement by
compare-and-swap. Whoever takes the lease after that finds the announcement, and changes it: see `refuse_announced`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import ConflictError, NotFoundError, OutputError
from conf.plural import plural
from streaming.features.schema import PICTURES, as_table
from streaming.lease.tenure import Tenure
from streaming.output.decision import FEATURES_TABLE, read_decision
from streaming.output.manifests import (
    FOUND_AGAIN,
    LOG_FOLDER,
    RETRY,
    manifest_ids,
    manifest_name,
    read_manifest,
    read_manifests,
    written_at,
)
from streaming.output.tables import EMPTY
from streaming.storage.damaged import naming
from streaming.storage.folder import IDENTITY_BYTES, Folder, StoredPicture, identity_of
from streaming.storage.identities import Identities
from streaming.storage.parquet import (
    as_parquet,
    footer_of,
    parquet_files,
    read_footer,
    read_rows,
    read_size,
    rows_in,
    unique,
)

KNOWN_FOLDER = "_known"
_ANNOUNCED = b"picture-features.announced"
_MERGE_BELOW_ROWS = 250_000
_ATTEMPTS = 10
_COMPACT_AFTER = 250_000
_NAMED = 10
_REMEDY = "restore it: without it, its pictures would be featurized again"

SCHEMA = pa.schema(
    [
        pa.field("hash", pa.binary(IDENTITY_BYTES), nullable=False),
        pa.field("manifest", pa.string(), nullable=False),
        *PICTURES,
    ]
)
"""The record: the identity of a picture, the manifest that listed it, and `PICTURES`."""


class KnownPictures:
    """The set of pictures that some manifest lists, in 16 bytes of memory for each but the latest.

    Attributes:
        repeating: manifests in the log that list a picture twice, or one of the record or of an earlier manifest,
            except those of retries, whose purpose that is.
        manifests: the manifests that were in the log; pictures of later ones are not in the set.
    """

    def __init__(self, output: Folder) -> None:
        """Read the record and the log of an output.

        Raises:
            NotFoundError: other processes keep deleting what is being read.
            OutputError: a file is damaged; the message names it.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._read(output)
            except NotFoundError:  # a former holder has just folded or withdrawn it
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _read(self, output: Folder) -> None:
        # The log is listed before the record is read: what is folded meanwhile is found in the record, or is missed.
        self.manifests = manifest_ids(output)
        files = (_hashes(output.path(name), output.read(name)) for name in parquet_files(output, KNOWN_FOLDER))
        self._compact = Identities.of_columns(files)
        self._recent: set[bytes] = set()
        self.repeating: list[str] = []
        listing = [manifest for manifest in self.manifests if not manifest.endswith(RETRY)]
        for manifest, pictures in read_manifests(output, listing):
            unknown = self.unknown(pictures)
            if len(unknown) < len(pictures):
                self.repeating.append(manifest)
            self.add(unknown)

    def __len__(self) -> int:
        return len(self._compact) + len(self._recent)

    def add(self, pictures: Iterable[StoredPicture]) -> None:
        """Remember pictures."""
        self._recent.update(picture.identity for picture in pictures)
        if len(self._recent) >= _COMPACT_AFTER:
            self._compact |= self._recent
            self._recent.clear()

    def unknown(self, pictures: Sequence[StoredPicture]) -> list[StoredPicture]:
        """Those of `pictures` that were not seen before, in their order, and each once.

        File servers may list an entry of a folder twice while others come or go.
        """
        identities = [picture.identity for picture in pictures]
        unknown = {
            identity: picture
            for picture, identity, known in zip(pictures, identities, self._compact.has(identities), strict=True)
            if not known and identity not in self._recent
        }
        return list(unknown.values())


def _hashes(path: str, data: bytes) -> pa.ChunkedArray:
    """The column of hashes in a file of the record."""
    with naming(path, _REMEDY):
        return rows_in(data, ["hash"]).column("hash").cast(SCHEMA.field("hash").type)


def fold(tenure: Tenure, manifests: Sequence[str]) -> None:
    """Move finished manifests from the log into the record, without the pictures that the denylist forbids.

    The record is written before anything is deleted, so that a kill at any point leaves each picture in at least one
    of the two. A small last file is merged into the new one, so that the number of files stays small for years.

    Raises:
        LeaseLostError: another has taken the lease; nothing was moved.
    """
    if not manifests:
        return
    output = tenure.output
    with tenure.writing() as denylist:
        tables = [_as_table(manifest, pictures) for manifest, pictures in read_manifests(output, manifests)]
        former, last = _last(output)
        if len(last) >= _MERGE_BELOW_ROWS:
            former = None
        if former:
            tables.insert(0, last.filter(pc.invert(pc.is_in(last.column("manifest"), pa.array(manifests)))))
        data = as_parquet(denylist.without(pa.concat_tables(tables)))
        latest = max(*manifests, _latest_in(former))  # a clock may have been set back
        _add_to_record(tenure, latest, data)
        if former:
            output.delete(former)
        output.delete_all([manifest_name(manifest) for manifest in manifests])


def _last(output: Folder) -> tuple[str | None, pa.Table]:
    """The last file of the record, and its rows; announcements do not count."""
    for name in sorted(parquet_files(output, KNOWN_FOLDER), reverse=True):
        with suppress(NotFoundError):  # an announcement, which another has just refused
            data = output.read(name)
            with naming(output.path(name), _REMEDY):
                if _ANNOUNCED not in footer_of(data):
                    return name, rows_in(data)
    return None, SCHEMA.empty_table()


def _add_to_record(tenure: Tenure, latest: str, data: bytes) -> None:
    """Announce a file, confirm the lease, and write the file.

    Its name is new for each attempt, so a refused announcement can be deleted: nobody else ever writes that file.
    """
    output = tenure.output
    while True:
        name = f"{KNOWN_FOLDER}/{latest}-{uuid.uuid4().hex[:8]}.parquet"
        tag = output.create(name, _announcement())
        tenure.confirm()
        with suppress(ConflictError):  # `forget` refuses each announcement that it meets, also of a living holder
            output.replace(name, data, tag)
            return


def _announcement() -> bytes:
    """The content of a file of the record that is to come; no two are the same."""
    return as_parquet(SCHEMA.empty_table(), unique({_ANNOUNCED: b"true"}))


def refuse_announced(output: Folder) -> None:
    """Have the record refuse files that former holders of the lease have announced and not written yet.

    Call it after the lease was taken: what is announced later is given up when its author confirms the lease.
    """
    for name in list(parquet_files(output, KNOWN_FOLDER)):
        with suppress(NotFoundError, ConflictError, OutputError):  # refused or written meanwhile; or damaged
            if _ANNOUNCED in read_footer(output, name):
                data, tag = output.read_tagged(name)
                if _ANNOUNCED in footer_of(data):
                    output.replace(name, _announcement(), tag)
                    output.delete(name)


def _as_table(manifest: str, pictures: Sequence[StoredPicture]) -> pa.Table:
    listed = as_table(pictures)
    columns = {"hash": [picture.identity for picture in pictures], "manifest": [manifest] * len(listed)}
    return pa.table({**columns, **{name: listed.column(name) for name in PICTURES.names}}, schema=SCHEMA)


def is_folded(output: Folder, manifest: str) -> bool:
    """Whether the record holds a manifest. Slow, as it reads the record: for rare use."""
    for name in parquet_files(output, KNOWN_FOLDER):
        column = read_rows(output, name, ["manifest"], _REMEDY).column("manifest")
        if pc.any(pc.equal(column, manifest)).as_py():
            return True
    return False


def count_folded(output: Folder) -> int:
    """The number of pictures in the record, by the ends of its files; one that cannot be read counts as empty."""
    count = 0
    for name in parquet_files(output, KNOWN_FOLDER):
        with suppress(NotFoundError, OutputError):  # merged into another meanwhile, or damaged
            count += read_size(output, name).rows
    return count


def check_log(output: Folder) -> None:
    """Make sure that each manifest with rows in the tables is in the record or in the log.

    Raises:
        OutputError: manifests were deleted by hand, so that their pictures would be featurized twice.
    """
    log = {*manifest_ids(output)}
    folded = max(map(_latest_in, parquet_files(output, KNOWN_FOLDER)), default="")
    tables = _days_since(output, folded) if folded else parquet_files(output, FEATURES_TABLE)
    done = {name.rpartition("/")[2].removesuffix(".parquet"): name for name in tables}
    once = (manifest for manifest in done if not manifest.endswith(RETRY))  # other manifests list a retry's pictures
    gone = [manifest for manifest in once if manifest > folded and manifest != EMPTY and manifest not in log]
    for manifest in gone:
        with naming(output.path(done[manifest]), "a stream names its files otherwise: move it away"):
            written_at(manifest)
    missing = [manifest for manifest in gone if not read_decision(output, manifest).withdrawn]
    if missing:
        more = ["and more, which the next start names"] if len(missing) > _NAMED else []
        names = ", ".join((*sorted(missing)[:_NAMED], *more))
        raise OutputError(
            f"{output.path(LOG_FOLDER)} lacks {plural(len(missing), 'manifest')} whose rows are in the tables: "
            f"{names}; put them back, or delete the files of these names in features, quarantine and embeddings, too: "
            f"then {FOUND_AGAIN}"
        )


def _latest_in(record: str | None) -> str:
    """The latest manifest in a file of the record, by its name."""
    return record.rpartition("/")[2].rpartition("-")[0] if record else ""


def _days_since(output: Folder, manifest: str) -> Iterator[str]:
    day, today = written_at(manifest).date(), datetime.now(UTC).date()
    while day <= today:
        yield from parquet_files(output, f"{FEATURES_TABLE}/date={day}")
        day += timedelta(days=1)


def manifests_with(output: Folder, path: str) -> list[str]:
    """The manifests that list the picture of this raw key: of the record, then of the log."""
    identity = pa.scalar(identity_of(path), SCHEMA.field("hash").type)
    found = []
    for name in list(parquet_files(output, KNOWN_FOLDER)):
        with suppress(NotFoundError):  # merged into another meanwhile, or an announcement that was refused
            rows = read_rows(output, name, ["hash", "manifest"], _REMEDY)
            found += rows.filter(pc.equal(rows.column("hash"), identity)).column("manifest").to_pylist()
    for manifest in manifest_ids(output):
        with suppress(NotFoundError):  # folded meanwhile
            if any(picture.path == path for picture in read_manifest(output, manifest)):
                found.append(manifest)
    return found
