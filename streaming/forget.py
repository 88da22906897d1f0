"""Erases pictures from an output and from all that was made of it.

It owns what is done in which order; it must not know how any part is done. The denylist comes first: once the holder of
the lease has noticed it, nothing that is erased comes back. What is found is written down before it is erased. A run
that was killed anywhere is finished by the next one, from the hashes alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession

from conf.errors import OutputError, SettingsError
from conf.progress import Progress
from conf.s3 import S3Connection
from conf.session import start_session
from conf.settings import Settings
from streaming import derivatives, known, manifests, requests
from streaming.erasure import File, Found, erase, find
from streaming.features import denylist
from streaming.features.denylist import Denylist, Entry
from streaming.features.registry import Registry
from streaming.features.storage import open_folder, resolve_key
from streaming.features.stored import Folder
from streaming.forget_log import erase_in_manifest, erase_in_request
from streaming.forget_models import AffectedModel, erase_in_model, find_models
from streaming.notice import wait_until_noticed
from streaming.receipts import Ledger, Receipt, finish, read_receipt, unfinished
from streaming.rows import has_rows
from streaming.sink import FEATURES_TABLE, QUARANTINE_TABLE

_TABLES = {FEATURES_TABLE: "features", QUARANTINE_TABLE: "quarantine", known.FOLDER: "the record of known pictures"}
_MANIFESTS, _REQUESTS, _SAVED = "manifests", "requests", "saved features"
_IN_LOG = {_MANIFESTS: erase_in_manifest, _REQUESTS: erase_in_request}

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What to forget: raw keys, and what raw keys begin with."""

    paths: Sequence[str]
    prefixes: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.paths or self.prefixes)


def read_wanted(paths: Sequence[str], prefixes: Sequence[str], file: str | None) -> Wanted:
    """From a command line, and a file with one path a line; `-` is standard input.

    Raises:
        SettingsError: the file cannot be read, or something names no place.
    """
    lines: list[str] = []
    if file is not None:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            lines = [line.rstrip("\r") for line in data.decode().split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--from-file: {file} cannot be read: {error}; give a text file in UTF-8") from error
    if any(not one for one in (*paths, *prefixes)):
        raise SettingsError("forget: a PATH or a --prefix is empty, and would stand for all pictures; name one")
    return Wanted([resolve_key(path) for path in (*paths, *lines)], [resolve_key(prefix) for prefix in prefixes])


@dataclass(frozen=True)
class _Places:
    """Where to look."""

    output: Folder
    registries: Sequence[Folder]
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> _Places:
        assert settings.output is not None
        connection = S3Connection.of(settings.s3)
        output = open_folder(settings.output, connection)
        if next(output.names(FEATURES_TABLE), None) is None:
            raise OutputError(f"{output.root}: no stream has written here yet; check --output")
        roots = [one.uri for one in derivatives.derivatives(output) if one.kind == "models"]
        return cls(output, [open_folder(root, connection) for root in roots], connection)

    def files(self) -> list[File]:
        """All files with rows, but for exports."""
        root = self.output.root
        folders = {**_TABLES, manifests.FOLDER: _MANIFESTS, requests.FOLDER: _REQUESTS}
        files = [
            File(place, root, name)
            for folder, place in folders.items()
            for name in self.output.names(folder)
            if has_rows(name)
        ]
        for saved in self._saved():
            folder = open_folder(saved, self.connection)
            files += [File(_SAVED, folder.root, name) for name in folder.names("") if has_rows(name)]
        return files

    def _saved(self) -> list[str]:
        recorded = {one.uri for one in derivatives.derivatives(self.output) if one.kind == "features"}
        manifests_of_models = (manifest for models in self.registries for manifest in Registry(models).versions())
        return sorted(recorded | {one.saved_features for one in manifests_of_models if one.saved_features})


def forget(settings: Settings, wanted: Wanted, progress: Progress, *, dry_run: bool) -> list[Receipt]:
    """Erase what is wanted, after what killed runs have left; returns a receipt for each.

    With `dry_run` nothing is changed, and the receipt tells what would be removed.

    Raises:
        OutputError: the output is none, or something in it cannot be read.
    """
    places = _Places.of(settings)
    output = places.output
    if dry_run:
        salt = denylist.read_salt(output) or denylist.new_salt()
        entries = [Entry.of(wanted.paths, wanted.prefixes, salt, datetime.now(UTC))]
    else:
        entries = _deny(places, wanted)
        for entry in entries:
            wait_until_noticed(
                output,
                entry.id,
                settings.stream.lease,
                lambda holder: _logger.info("waiting until %s takes notice", holder),
            )
    if not entries:
        return []
    spark = start_session("picture-features forget", settings, {})
    try:
        erasures = [_Erasure(spark, places, entry, progress) for entry in entries]
        return [erasure.look() if dry_run else erasure.run() for erasure in erasures]
    finally:
        spark.stop()


def _deny(places: _Places, wanted: Wanted) -> list[Entry]:
    """Put what is wanted on the denylists, durably; returns what there is to do."""
    output = places.output
    output.remove_leftovers()
    entry = None
    if wanted:
        entry = Entry.of(wanted.paths, wanted.prefixes, denylist.make_salt(output), datetime.now(UTC))
        denylist.add_entry(output, entry)
    entries = list(denylist.read_entries(output))
    for models in places.registries:
        denylist.add_missing(models, entries)
    todo = list(unfinished(output, entries))
    if entry and all(one.id != entry.id for one in todo):  # asked for once more
        todo.append(entry)
    return todo


class _Erasure:
    """What is done about one entry."""

    def __init__(self, spark: SparkSession, places: _Places, entry: Entry, progress: Progress) -> None:
        self._spark = spark
        self._places = places
        self._output = places.output
        self._entry = entry
        self._denylist = Denylist([entry])
        self._progress = progress
        self._ledger = Ledger()

    def look(self) -> Receipt:
        """Tell what would be done."""
        self._find(self._places.files())
        for models in self._places.registries:
            self._find_models(models)
        return self._ledger.receipt(self._output, self._entry, datetime.now(UTC), None)

    def run(self) -> Receipt:
        """Erase everything, and leave a receipt."""
        self._ledger = Ledger.load(self._output, self._entry)
        found = self._find(self._places.files())
        self._ledger.save(self._output, self._entry)
        self._erase(found)
        for models in self._places.registries:
            affected = self._find_models(models)
            self._ledger.save(self._output, self._entry)
            for one in affected:
                erase_in_model(models, one)
        earlier = read_receipt(self._output, self._entry.id)
        receipt = self._ledger.receipt(self._output, self._entry, datetime.now(UTC), earlier)
        finish(self._output, receipt)
        return receipt

    def _find(self, files: Sequence[File]) -> list[Found]:
        work = partial(find, self._spark, files, self._denylist, self._places.connection)
        found = self._with_bar(len(files), "files searched", work)
        for one in found:
            self._ledger.add_rows(one.file.place, f"{one.file.root}/{one.file.name}", one.rows)
            if self._entry.prefixes:
                self._ledger.add_identities(one.identities, self._entry)
        return found

    def _erase(self, found: Iterable[Found]) -> None:
        in_log = [one.file for one in found if one.file.place in _IN_LOG]
        for file in in_log:
            _IN_LOG[file.place](self._output, file.name, self._denylist)
        files = [one.file for one in found if one.file.place not in _IN_LOG]
        self._with_bar(
            len(files), "files rewritten", partial(erase, self._spark, files, self._denylist, self._places.connection)
        )

    def _find_models(self, models: Folder) -> list[AffectedModel]:
        affected = list(find_models(models, self._denylist, self._is_found))
        for one in affected:
            if one.pictures:
                self._ledger.add_refit(models.root, one.version, one.pictures)
        return affected

    def _is_found(self, identity: bytes) -> bool:
        return self._denylist.holds_identity(identity) or self._ledger.holds_identity(identity, self._entry)

    def _with_bar(self, total: int, unit: str, work: Callable[[Accumulator[int]], _Result]) -> _Result:
        done = self._spark.sparkContext.accumulator(0)
        with ExitStack() as stack:
            if total:
                stack.enter_context(self._progress(total, unit, done))
            return work(done)
