"""Erases pictures from an output and from all that was made of it.

The denylist comes first: once the holder of the lease has reloaded it, no erased row comes back. Rows are counted in
the ledger before they are erased. A run that was killed anywhere is finished by the next one, from the hashes alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from conf.backoff import pauses
from conf.errors import BundleError, ConflictError, LeaseLostError, OutputError, StorageError, TransientError
from conf.settings import Settings
from conf.spark.progress import Progress
from streaming.export.snapshots import drop_incomplete
from streaming.forget.answer import ExplainedReceipt, Forgotten, Search
from streaming.forget.exports import PLACE as EXPORTS
from streaming.forget.exports import correct_records, export_files, record_tags, working_alone
from streaming.forget.files import File, Found
from streaming.forget.log import erase_in_manifest, erase_in_request
from streaming.forget.models import AffectedModel, erase_in_model, find_models
from streaming.forget.places import MANIFESTS, REQUESTS, ErasurePlaces, saved_by
from streaming.forget.receipts import Ledger, unfinished_entries, write_receipt
from streaming.forget.sweeper import Sweeper, erase, find, measure_files
from streaming.forget.wanted import Wanted
from streaming.lease import denylist
from streaming.lease.denylist import Denylist, Entry
from streaming.lease.handshake import wait_until_noticed
from streaming.lease.holder import erase_failure
from streaming.lease.lease import Lease
from streaming.output.decision import complete_manifests
from streaming.output.embeddings import publish_staged
from streaming.output.known import refuse_announced
from streaming.output.lineage import Derivative
from streaming.output.tables import finished
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder

_ATTEMPTS = 8
_IN_LOG = {MANIFESTS: erase_in_manifest, REQUESTS: erase_in_request}

_logger = logging.getLogger(__name__)


def forget(settings: Settings, wanted: Wanted, progress: Progress, *, dry_run: bool) -> Forgotten:
    """Finish the runs that were killed, then erase the wanted pictures; returns a receipt for each.

    With `dry_run` nothing is changed, and the receipt tells what would be removed.

    Raises:
        OutputError: the output is not an output, or something in it cannot be read. Or a place is missing here that may
            be elsewhere: all others were looked into, and there is no receipt yet.
        LeaseLostError: an export may have begun in a folder while it was swept; the next run finishes it.
    """
    places = ErasurePlaces.of(settings)
    output = places.output
    missing = places.missing()
    if dry_run:
        if missing:
            raise OutputError(f"{output.root}: places cannot be looked into:{_each(missing)}")
        searches = [Search(_entry_of(wanted, denylist.read_salt(output) or denylist.new_salt()), wanted)]
    else:
        searches = _deny(places, wanted)
        for search in searches:
            wait_until_noticed(
                output,
                search.entry.id,
                settings.stream.lease,
                lambda holder: _logger.info("waiting until %s has reloaded the denylist", holder),
            )
            erase_failure(output, search.denylist.is_forgotten)
        # What a former holder was about to write is refused, and what a killed one has not written yet is derived now:
        # neither may come later, with rows that were erased here.
        refuse_announced(output)
        complete_manifests(output, finished(output))
        publish_staged(output)
    if not searches:
        return Forgotten(output.root, dry_run, ())
    with Sweeper(settings, places.connection, progress) as sweeper:
        erasures = [_Erasure(sweeper, places, search, settings.stream.lease) for search in searches]
        if dry_run:
            return Forgotten(output.root, dry_run, tuple(erasure.look() for erasure in erasures))
        for erasure in erasures:
            erasure.run()
        missing |= places.missing()  # some may have gone meanwhile
        left = {uri: why for erasure in erasures for uri, why in missing.items() if not erasure.has_looked_into(uri)}
        left |= {uri: why for erasure in erasures for uri, why in erasure.failed.items()}
        if left:
            raise OutputError(
                f"{output.root}: erased, but these places cannot be looked into, and without them there is no receipt; "
                f"forget again, without a path, when they can:{_each(left)}"
            )
        return Forgotten(output.root, dry_run, tuple(erasure.finish() for erasure in erasures))


def _each(missing: Mapping[str, str]) -> str:
    return "".join(f"\n  {why}" for why in missing.values())


def _entry_of(wanted: Wanted, salt: bytes) -> Entry:
    paths, prefixes = ((one.key for one in group) for group in (wanted.paths, wanted.prefixes))
    return Entry.of(paths, prefixes, salt, datetime.now(UTC))


def _deny(places: ErasurePlaces, wanted: Wanted) -> list[Search]:
    """Put the wanted pictures on the denylists, durably; returns the searches to carry out."""
    output = places.output
    output.remove_leftovers()
    asked = None
    if wanted:
        asked = _entry_of(wanted, denylist.make_salt(output))
        ledger = Ledger.load(output, asked)
        ledger.asked = Search(asked, wanted).places()
        ledger.save(output, asked)  # first: to finish a killed run, only this and the entry are known
        denylist.add_entry(output, asked)
    entries = list(denylist.read_entries(output))
    for models in places.registries():
        try:
            denylist.add_missing(models, entries)
        except TransientError:
            raise
        except StorageError as error:  # it is met again, and told, where the registry is looked into
            _logger.debug("%s: no denylist could be written", models.root, exc_info=error)
    return [
        Search(entry, wanted) if asked and entry.id == asked.id else Search(entry)
        for entry in unfinished_entries(output, entries)
    ]


def _erase_in_log(output: Folder, file: File, denylist: Denylist) -> None:
    _IN_LOG[file.place](output, file.name, denylist)


class _Erasure:
    """The erasure of the pictures of one entry.

    Attributes:
        failed: the places that could not be looked into, by canonical path, each with the reason, for people.
    """

    def __init__(self, sweeper: Sweeper, places: ErasurePlaces, search: Search, lease: timedelta) -> None:
        self._sweeper = sweeper
        self._places = places
        self._output = places.output
        self._entry = search.entry
        self._search = search
        self._denylist = search.denylist
        self._lease = lease
        self._ledger = Ledger()
        self._swept: set[str] = set()
        self.failed: dict[str, str] = {}

    def look(self) -> ExplainedReceipt:
        """The receipt of a dry run, which is not kept."""
        self._ledger.asked = self._search.places()
        self._find(self._places.files() + self._places.saved_files(self._places.saved()))
        for to in self._places.exports():
            self._find(export_files(to))
        for models in self._places.registries():
            self._find_models(models)
        return self._search.explain(self._ledger.receipt(self._output, self._entry, datetime.now(UTC)))

    def run(self) -> None:
        """Erase everything."""
        self._ledger = Ledger.load(self._output, self._entry)
        self._sweep(self._places.files())
        self._sweep_saved()
        # Read only now: an export that began before the table was swept is among them, and a later one found no such
        # rows.
        for to in self._places.exports():
            with self._told(Derivative("export", to.root)):
                self._erase_in_exports(to)
        registries = self._places.registries()
        for models in registries:
            with self._told(Derivative("models", models.root)):
                self._erase_in_registry(models)
        self._sweep_saved()  # by a fit that has sealed its model meanwhile
        for models in registries:
            if models.root not in self.failed and self._ledger.looked_into.issuperset(saved_by(models)):
                self._ledger.looked_into.add(models.root)  # only here is it known where saved features are
        self._ledger.save(self._output, self._entry)

    @contextmanager
    def _told(self, made: Derivative) -> Iterator[None]:
        """Keep a failure of a place in `failed`, so that the others are looked into.

        Raises:
            TransientError: a store fails at the moment.
            LeaseLostError: see `forget`.
        """
        try:
            yield
        except (TransientError, LeaseLostError):
            raise
        except (StorageError, OutputError, BundleError) as error:
            self.failed[made.uri] = self._places.refused(made, error)

    def _erase_in_exports(self, to: Folder) -> None:
        if next(to.names(""), None):  # otherwise it was deleted by hand
            told = partial(_logger.info, "%s: waiting until %s has finished", to.root)
            with working_alone(to, self._lease, told) as lease:
                self._erase_in_snapshots(to, lease)
        self._ledger.looked_into.add(to.root)

    def _erase_in_registry(self, models: Folder) -> None:
        denylist.add_missing(models, [self._entry])  # to one that has only just been mounted
        models.remove_leftovers()
        Registry(models).remove_incomplete(datetime.now(UTC))
        self._erase_in_models(models)

    def _sweep(self, files: Sequence[File]) -> None:
        found = self._find(files)
        self._ledger.save(self._output, self._entry)
        self._erase(found)

    def _sweep_saved(self) -> None:
        """Erase in saved features that this run has not swept; a former one may have been where they are not."""
        saved = set(self._places.saved()) - self._swept
        self._sweep(self._places.saved_files(sorted(saved)))
        self._swept |= saved
        self._ledger.looked_into |= saved

    def _erase_in_models(self, models: Folder) -> None:
        """Erase in the models of a registry, where `forget` of another output may work, too.

        Raises:
            ConflictError: another process keeps changing them.
        """
        rests = islice(pauses(0.5), _ATTEMPTS)
        # A fit may have made another model from this one before it lost the pictures.
        while affected := self._find_models(models):
            self._ledger.save(self._output, self._entry)
            for one in affected:
                try:
                    erase_in_model(models, one)
                except ConflictError:
                    if (rest := next(rests, None)) is None:
                        raise
                    time.sleep(rest)

    def has_looked_into(self, uri: str) -> bool:
        """Whether this run or one before it, perhaps on another machine, has looked into a recorded place."""
        return uri in self._ledger.looked_into

    def finish(self) -> ExplainedReceipt:
        """Leave a receipt, after which the entry counts as done."""
        receipt = self._ledger.receipt(self._output, self._entry, datetime.now(UTC))
        return self._search.explain(write_receipt(self._output, receipt, self._ledger.earlier))

    def _find(self, files: Sequence[File]) -> list[Found]:
        looked = find(self._sweeper, files, self._denylist, self._search.watched)
        self._note(hit for one in looked for hit in one.hits)
        found = [one for one in looked if one.identities]
        for one in found:
            if one.rows:
                self._ledger.add_rows(one.file.place, f"{one.file.root}/{one.file.name}", one.rows)
            if self._entry.prefixes:
                self._ledger.add_identities(one.identities, self._entry)
        return found

    def _note(self, hits: Iterable[bytes]) -> None:
        self._ledger.matched.update(self._search.note(hits))

    def _erase(self, found: Iterable[Found]) -> None:
        erase(self._sweeper, [one.file for one in found if one.file.place not in _IN_LOG], self._denylist)
        for one in found:
            if one.file.place in _IN_LOG:
                _erase_in_log(self._output, one.file, self._denylist)

    def _erase_in_snapshots(self, to: Folder, lease: Lease) -> None:
        if failure := drop_incomplete(to, lease):  # their rows are there still
            raise failure
        found = self._find(export_files(to))
        self._ledger.save(self._output, self._entry)
        self._erase(found)
        # A killed run may have erased rows without correcting the records.
        visited = [file for file in export_files(to) if to.path(file.name) in self._ledger.rows.get(EXPORTS, ())]
        tags = record_tags(to, [file.name for file in visited])
        correct_records(to, measure_files(self._sweeper, visited), tags)
        lease.check()

    def _find_models(self, models: Folder) -> list[AffectedModel]:
        affected = list(find_models(models, self._denylist, self._is_found))
        for one in affected:
            if one.pictures:
                self._ledger.add_refit(models.root, one.version, one.pictures)
        return affected

    def _is_found(self, identity: bytes) -> bool:
        self._note(self._search.watched.hits_of(identity))
        return self._denylist.holds_identity(identity) or self._ledger.holds_identity(identity, self._entry)
