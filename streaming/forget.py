"""Erases pictures from an output and from all that was made of it.

It owns what is done in which order; it must not know how any part is done. The denylist comes first: once the holder of
the lease has noticed it, nothing that is erased comes back. What is found is written down before it is erased. A run
that was killed anywhere is finished by the next one, from the hashes alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession

from conf.errors import SettingsError
from conf.progress import Progress
from conf.session import start_session
from conf.settings import Settings
from streaming.erasure import File, Found, erase, find, measure
from streaming.features import denylist
from streaming.features.denylist import Denylist, Entry
from streaming.features.registry import Registry
from streaming.features.storage import resolve_key
from streaming.features.stored import Folder
from streaming.forget_exports import PLACE as EXPORTS
from streaming.forget_exports import correct_records, export_files, working_alone
from streaming.forget_log import erase_in_manifest, erase_in_request
from streaming.forget_models import AffectedModel, erase_in_model, find_models
from streaming.forget_places import MANIFESTS, REQUESTS, Places
from streaming.notice import wait_until_noticed
from streaming.receipts import Ledger, Receipt, finish, unfinished
from streaming.snapshots import drop_incomplete

_IN_LOG = {MANIFESTS: erase_in_manifest, REQUESTS: erase_in_request}

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


def forget(settings: Settings, wanted: Wanted, progress: Progress, *, dry_run: bool) -> list[Receipt]:
    """Erase what is wanted, after what killed runs have left; returns a receipt for each.

    With `dry_run` nothing is changed, and the receipt tells what would be removed.

    Raises:
        OutputError: the output is none, or something in it cannot be read.
    """
    places = Places.of(settings)
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
        erasures = [_Erasure(spark, places, entry, settings.stream.lease, progress) for entry in entries]
        return [erasure.look() if dry_run else erasure.run() for erasure in erasures]
    finally:
        spark.stop()


def _deny(places: Places, wanted: Wanted) -> list[Entry]:
    """Put what is wanted on the denylists, durably; returns what there is to do."""
    output = places.output
    output.remove_leftovers()
    asked = None
    if wanted:
        entry = Entry.of(wanted.paths, wanted.prefixes, denylist.make_salt(output), datetime.now(UTC))
        denylist.add_entry(output, entry)
        asked = entry.id
    entries = list(denylist.read_entries(output))
    for models in places.registries():
        denylist.add_missing(models, entries)
    todo = list(unfinished(output, entries))
    once_more = [entry for entry in entries if entry.id == asked and entry not in todo]
    return todo + once_more


def _erase_in_log(output: Folder, file: File, denylist: Denylist) -> None:
    _IN_LOG[file.place](output, file.name, denylist)


class _Erasure:
    """What is done about one entry."""

    def __init__(self, spark: SparkSession, places: Places, entry: Entry, lease: timedelta, progress: Progress) -> None:
        self._spark = spark
        self._places = places
        self._output = places.output
        self._entry = entry
        self._denylist = Denylist([entry])
        self._lease = lease
        self._progress = progress
        self._ledger = Ledger()

    def look(self) -> Receipt:
        """Tell what would be done."""
        self._find(self._places.files())
        for to in self._places.exports():
            self._find(export_files(to))
        for models in self._places.registries():
            self._find_models(models)
        return self._ledger.receipt(self._output, self._entry, datetime.now(UTC))

    def run(self) -> Receipt:
        """Erase everything, and leave a receipt."""
        self._ledger = Ledger.load(self._output, self._entry)
        found = self._find(self._places.files())
        self._ledger.save(self._output, self._entry)
        self._erase(found)
        # Asked for only now: an export that began before the table was swept is among them, and a later one had no such
        # rows to take.
        for to in self._places.exports():
            if next(to.names(""), None):  # otherwise it was deleted by a hand
                with working_alone(
                    to, self._lease, partial(_logger.info, "%s: waiting until %s has finished", to.root)
                ):
                    self._erase_in_export(to)
        for models in self._places.registries():
            Registry(models).remove_incomplete(datetime.now(UTC))
            # A fit that adds to a model may have made another before this one lost the pictures.
            while affected := self._find_models(models):
                self._ledger.save(self._output, self._entry)
                for one in affected:
                    erase_in_model(models, one)
        receipt = self._ledger.receipt(self._output, self._entry, datetime.now(UTC))
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
        files = [one.file for one in found if one.file.place not in _IN_LOG]
        work = partial(erase, self._spark, files, self._denylist, self._places.connection)
        self._with_bar(len(files), "files rewritten", work)
        for one in found:
            if one.file.place in _IN_LOG:
                _erase_in_log(self._output, one.file, self._denylist)

    def _erase_in_export(self, to: Folder) -> None:
        drop_incomplete(to)
        found = self._find(export_files(to))
        self._ledger.save(self._output, self._entry)
        self._erase(found)
        # A killed run may have come as far as to the records.
        visited = [file for file in export_files(to) if to.path(file.name) in self._ledger.rows.get(EXPORTS, ())]
        correct_records(to, measure(self._spark, visited, self._places.connection, self._counter()))

    def _find_models(self, models: Folder) -> list[AffectedModel]:
        affected = list(find_models(models, self._denylist, self._is_found))
        for one in affected:
            if one.pictures:
                self._ledger.add_refit(models.root, one.version, one.pictures)
        return affected

    def _is_found(self, identity: bytes) -> bool:
        return self._denylist.holds_identity(identity) or self._ledger.holds_identity(identity, self._entry)

    def _with_bar(self, total: int, unit: str, work: Callable[[Accumulator[int]], _Result]) -> _Result:
        done = self._counter()
        with self._progress(total, unit, done) if total else nullcontext():
            return work(done)

    def _counter(self) -> Accumulator[int]:
        return self._spark.sparkContext.accumulator(0)
