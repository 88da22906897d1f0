"""The ledger of a run of `forget`, OUTPUT/_forgotten/progress, and its receipt at the end, in receipts.

Rows are written into the ledger before they are erased, so that the counts are right although a run was killed in
between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from conf.errors import AlreadyExistsError, ConflictError, OutputError
from streaming.lease.denylist import DENYLIST_FOLDER, Entry, ForgottenPrefix, hash_identity
from streaming.storage.documents import create_or_replace, read_document
from streaming.storage.folder import Folder

_PROGRESS = f"{DENYLIST_FOLDER}/progress"
_RECEIPTS = f"{DENYLIST_FOLDER}/receipts"
_SUFFIX = ".json"
_ATTEMPTS = 10

_Document = TypeVar("_Document", bound=BaseModel)


class Refit(BaseModel):
    """A model whose statistics hold forgotten pictures.

    Attributes:
        models: canonical path of its registry.
        version: of the model.
        pictures: how many of its pictures are forgotten.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: str
    version: str
    pictures: int


class Unmatched(BaseModel):
    """A requested path or prefix that matches nothing.

    Attributes:
        hash: its salted hash, which stays on the denylist.
        where: its place in the request, like `line 17`; None for a request to an earlier release.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hash: str
    where: str | None


class Receipt(BaseModel):
    """The receipt for an entry of the denylist. It holds no path.

    Attributes:
        id: of the entry.
        output: canonical path.
        asked_at, finished_at: UTC.
        paths, prefixes: the salted hashes.
        removed: the number of removed rows, by place.
        refit: models that were fitted with a forgotten picture.
        unmatched: paths and prefixes that match nothing, now and in earlier runs of the same request; None if such a
            run was of an earlier release, which did not record it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    id: str
    output: str
    asked_at: datetime
    finished_at: datetime
    paths: tuple[str, ...]
    prefixes: tuple[ForgottenPrefix, ...]
    removed: dict[str, int]
    refit: tuple[Refit, ...]
    unmatched: tuple[Unmatched, ...] | None = None

    def joined(self, other: Receipt) -> Receipt:
        """This receipt with the greater of both counts, and the paths and prefixes that neither run has found."""
        removed = {
            place: max(self.removed.get(place, 0), other.removed.get(place, 0))
            for place in {**self.removed, **other.removed}
        }
        refit: dict[tuple[str, str], Refit] = {}
        for one in sorted((*self.refit, *other.refit), key=lambda one: one.pictures):
            refit[one.models, one.version] = one
        left = None
        if self.unmatched is not None and other.unmatched is not None:
            missed = {one.hash for one in other.unmatched}
            left = tuple(one for one in self.unmatched if one.hash in missed)
        models = tuple(refit[key] for key in sorted(refit))
        return self.model_copy(update={"removed": removed, "refit": models, "unmatched": left})


class Ledger(BaseModel):
    """The findings for an entry, of this run and of killed ones before.

    Attributes:
        rows: the number of rows, by place and file.
        identities: the salted hashes of the pictures that a forgotten prefix was found to stand for, in hexadecimal.
        refit: the number of pictures, by registry and version.
        asked: the place of each path and prefix in the request, by its salted hash.
        matched: the salted hashes of paths and prefixes that were found.
        looked_into: canonical paths of the recorded places that were looked into.
        earlier: the receipt of a finished run for the same entry, from before this one began.
    """

    model_config = ConfigDict(extra="forbid")

    rows: dict[str, dict[str, int]] = Field(default_factory=dict)
    identities: set[str] = Field(default_factory=set)
    refit: dict[str, dict[str, int]] = Field(default_factory=dict)
    asked: dict[str, str] = Field(default_factory=dict)
    matched: set[str] = Field(default_factory=set)
    looked_into: set[str] = Field(default_factory=set)
    earlier: Receipt | None = None

    @classmethod
    def load(cls, output: Folder, entry: Entry) -> Self:
        """The ledger that a killed run has left, or else a new one.

        Raises:
            OutputError: the ledger or the receipt cannot be read.
        """
        begun, _ = _read_tagged(cls, output, _name(_PROGRESS, entry.id))
        return begun or cls(earlier=_read_tagged(Receipt, output, _name(_RECEIPTS, entry.id))[0])

    def save(self, output: Folder, entry: Entry) -> None:
        """Write the ledger, durably, joined with that of another run which works on the same entry."""
        _update(output, _name(_PROGRESS, entry.id), Ledger, self._joined)

    def _joined(self, other: Ledger | None) -> Ledger:
        if other:
            for place, files in other.rows.items():
                for file, rows in files.items():
                    self.add_rows(place, file, rows)
            for models, versions in other.refit.items():
                for version, pictures in versions.items():
                    self.add_refit(models, version, pictures)
            self.identities |= other.identities
            self.matched |= other.matched
            self.looked_into |= other.looked_into
            self.asked = self.asked or other.asked
        return self

    @field_serializer("identities", "matched", "looked_into")
    def _in_order(self, values: set[str]) -> list[str]:
        return sorted(values)

    def add_rows(self, place: str, file: str, rows: int) -> None:
        """Note rows of a file; a file can only have lost rows since a killed run has counted them."""
        files = self.rows.setdefault(place, {})
        files[file] = max(files.get(file, 0), rows)

    def add_identities(self, identities: Iterable[bytes], entry: Entry) -> None:
        """Note the pictures that were found."""
        salt = bytes.fromhex(entry.salt)
        self.identities.update(hash_identity(identity, salt).hex() for identity in identities)

    def holds_identity(self, identity: bytes, entry: Entry) -> bool:
        """Whether `add_identities` noted this identity."""
        return bool(self.identities) and hash_identity(identity, bytes.fromhex(entry.salt)).hex() in self.identities

    def add_refit(self, models: str, version: str, pictures: int) -> None:
        """Note a model."""
        versions = self.refit.setdefault(models, {})
        versions[version] = max(versions.get(version, 0), pictures)

    def _unmatched(self, entry: Entry) -> tuple[Unmatched, ...] | None:
        if self.earlier and self.earlier.unmatched is None:
            return None
        if self.earlier:
            before = {one.hash for one in self.earlier.unmatched or ()}
        else:
            before = {*entry.paths, *(prefix.hash for prefix in entry.prefixes)}
        order = {digest: number for number, digest in enumerate(self.asked)}
        left = sorted(before - self.matched, key=lambda one: (order.get(one, len(order)), one))
        return tuple(Unmatched(hash=one, where=self.asked.get(one)) for one in left)

    def receipt(self, output: Folder, entry: Entry, now: datetime) -> Receipt:
        """The receipt of the ledger, including the rows that an earlier run for the same entry has removed."""
        earlier = self.earlier
        removed = Counter(earlier.removed if earlier else {})
        refit = {(one.models, one.version): one.pictures for one in (earlier.refit if earlier else ())}
        for place, files in self.rows.items():
            removed[place] += sum(files.values())
        for models, versions in self.refit.items():
            for version, pictures in versions.items():
                refit[models, version] = refit.get((models, version), 0) + pictures
        return Receipt(
            id=entry.id,
            output=output.root,
            asked_at=entry.asked_at,
            finished_at=now,
            paths=entry.paths,
            prefixes=entry.prefixes,
            removed=dict(removed),
            refit=tuple(
                Refit(models=models, version=version, pictures=pictures)
                for (models, version), pictures in sorted(refit.items())
            ),
            unmatched=self._unmatched(entry),
        )


def write_receipt(output: Folder, receipt: Receipt, earlier: Receipt | None) -> Receipt:
    """Write the receipt, delete the ledger, and return the receipt.

    Args:
        output: of the stream.
        receipt: of this run and those before it.
        earlier: the receipt that is included in it. If another was written since, by a concurrent run for the same
            entry, neither of the two is complete: the greater of both counts is kept.
    """

    def joined(present: Receipt | None) -> Receipt:
        return receipt.joined(present) if present and present != earlier else receipt

    written = _update(output, _name(_RECEIPTS, receipt.id), Receipt, joined)
    output.delete(_name(_PROGRESS, receipt.id))
    return written


def _read_tagged(kind: type[_Document], output: Folder, name: str) -> tuple[_Document | None, str | None]:
    """A document of this kind, and its tag; None if it is not there."""
    return read_document(
        output,
        name,
        kind,
        lambda why: OutputError(
            f"{output.path(name)} was changed or is of another release: {why}; restore it, or delete it and forget "
            "again: then what was removed before is neither counted nor looked for in models"
        ),
    )


def unfinished_entries(output: Folder, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those of `entries` that a killed run has left, oldest first."""
    done, begun = _ids(output, _RECEIPTS), _ids(output, _PROGRESS)
    yield from sorted(
        (entry for entry in entries if entry.id not in done or entry.id in begun), key=lambda one: one.asked_at
    )


def _ids(output: Folder, folder: str) -> set[str]:
    return {name.rpartition("/")[2].removesuffix(_SUFFIX) for name in output.names(folder)}


def _update(
    output: Folder, name: str, kind: type[_Document], change: Callable[[_Document | None], _Document]
) -> _Document:
    """Replace a document by `change` of its present content; other processes may write it, too.

    Raises:
        ConflictError: other processes keep changing it.
    """
    for attempt in range(_ATTEMPTS):
        present, tag = _read_tagged(kind, output, name)
        document = change(present)
        data = document.model_dump_json(indent=2).encode()
        try:
            if document != present:
                create_or_replace(output, name, data, tag)
        except (AlreadyExistsError, ConflictError):
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return document
    raise AssertionError


def receipt_name(entry: str) -> str:
    """The name of the receipt for an entry, in its output."""
    return _name(_RECEIPTS, entry)


def _name(folder: str, entry: str) -> str:
    return f"{folder}/{entry}{_SUFFIX}"
