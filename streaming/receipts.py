"""What `forget` has found and done: durable while it works, and the receipt at the end.

It owns OUTPUT/_forgotten/progress and receipts, and the words for people; it must not know how anything is erased. What
is found is written down before anything is erased, so that the counts are right although a run was killed in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conf.errors import NotFoundError, OutputError
from streaming.features.denylist import FOLDER, Entry, ForgottenPrefix, hash_identity
from streaming.features.stored import Folder

_PROGRESS = f"{FOLDER}/progress"
_RECEIPTS = f"{FOLDER}/receipts"
_SUFFIX = ".json"

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


class Receipt(BaseModel):
    """What was done about an entry of the denylist. It holds no path.

    Attributes:
        id: of the entry.
        output: canonical path.
        asked_at, finished_at: UTC.
        paths, prefixes: the salted hashes.
        removed: how many rows, by place.
        refit: models that were fitted with a forgotten picture.
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

    def as_text(self, *, dry_run: bool) -> str:
        """For people."""
        lines = [
            f"{'would remove' if dry_run else 'removed':<13}{sum(self.removed.values()):,} rows",
            *(f"{'':13}{count:,} from {place}" for place, count in self.removed.items()),
        ]
        lines += [
            f"{'refit':<13}{model.version} in {model.models}: {model.pictures:,} of its pictures"
            for model in self.refit
        ]
        if self.refit:
            lines.append(
                f"{'':13}fit anew, without --from, promote the new model, and delete these; nothing else takes a "
                "picture out of what was computed from it"
            )
        if not dry_run:
            lines.append(f"{'receipt':<13}{self.output}/{_name(_RECEIPTS, self.id)}")
        return "\n".join(lines)


class Ledger(BaseModel):
    """What was found for an entry, in this run and in killed ones before.

    Attributes:
        rows: by place and file.
        identities: the salted hashes of what a forgotten prefix was found to stand for, in hexadecimal.
        refit: pictures by registry and version.
        earlier: the receipt of a finished run for the same, from before this one began.
    """

    model_config = ConfigDict(extra="forbid")

    rows: dict[str, dict[str, int]] = Field(default_factory=dict)
    identities: set[str] = Field(default_factory=set)
    refit: dict[str, dict[str, int]] = Field(default_factory=dict)
    earlier: Receipt | None = None

    @classmethod
    def load(cls, output: Folder, entry: Entry) -> Self:
        """What a killed run has left, or else one to begin with.

        Raises:
            OutputError: what is there cannot be read.
        """
        return _read(cls, output, _name(_PROGRESS, entry.id)) or cls(
            earlier=_read(Receipt, output, _name(_RECEIPTS, entry.id))
        )

    def save(self, output: Folder, entry: Entry) -> None:
        """Make it durable."""
        content = self.model_dump(mode="json") | {"identities": sorted(self.identities)}
        _write(output, _name(_PROGRESS, entry.id), json.dumps(content).encode())

    def add_rows(self, place: str, file: str, rows: int) -> None:
        """Note rows of a file. It never gets more than a killed run has seen in it."""
        files = self.rows.setdefault(place, {})
        files[file] = max(files.get(file, 0), rows)

    def add_identities(self, identities: Iterable[bytes], entry: Entry) -> None:
        """Note the pictures that were found."""
        salt = bytes.fromhex(entry.salt)
        self.identities.update(hash_identity(identity, salt).hex() for identity in identities)

    def holds_identity(self, identity: bytes, entry: Entry) -> bool:
        """Whether `add_identities` noted it."""
        return bool(self.identities) and hash_identity(identity, bytes.fromhex(entry.salt)).hex() in self.identities

    def add_refit(self, models: str, version: str, pictures: int) -> None:
        """Note a model."""
        versions = self.refit.setdefault(models, {})
        versions[version] = max(versions.get(version, 0), pictures)

    def receipt(self, output: Folder, entry: Entry, now: datetime) -> Receipt:
        """What it comes to, with what an earlier run for the same has removed."""
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
        )


def finish(output: Folder, receipt: Receipt) -> None:
    """Write the receipt; what a killed run would need is not needed any more."""
    _write(output, _name(_RECEIPTS, receipt.id), receipt.model_dump_json(indent=2).encode())
    output.delete(_name(_PROGRESS, receipt.id))


def _read(kind: type[_Document], output: Folder, name: str) -> _Document | None:
    """A document of this kind; None if it is not there."""
    try:
        return kind.model_validate_json(output.read(name))
    except NotFoundError:
        return None
    except ValidationError as error:
        raise OutputError(
            f"{output.path(name)} was changed or is of another release: {error.errors()[0]['msg']}; restore it, or "
            "delete it and forget again: then what was removed before is neither counted nor looked for in models"
        ) from error


def unfinished(output: Folder, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those of `entries` that a killed run has left, oldest first."""
    done, begun = _ids(output, _RECEIPTS), _ids(output, _PROGRESS)
    yield from sorted(
        (entry for entry in entries if entry.id not in done or entry.id in begun), key=lambda one: one.asked_at
    )


def _ids(output: Folder, folder: str) -> set[str]:
    return {name.rpartition("/")[2].removesuffix(_SUFFIX) for name in output.names(folder)}


def _write(output: Folder, name: str, data: bytes) -> None:
    try:
        present, tag = output.read_tagged(name)
    except NotFoundError:
        output.create(name, data)
    else:
        if present != data:
            output.replace(name, data, tag)


def _name(folder: str, entry: str) -> str:
    return f"{folder}/{entry}{_SUFFIX}"
