"""Tells which of the requested paths and prefixes exist, in the answer to the person who runs `forget`.

The receipt is kept, so it holds no path. The answer names each path or prefix that matches nothing, with the nearest
spelling that does: other spellings are looked for by their salted hashes, in the same search as the requested ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from conf.answers import Answer, Row
from conf.plural import plural
from streaming.forget.receipts import Receipt, Unmatched, receipt_name
from streaming.forget.wanted import Asked, Wanted
from streaming.lease.denylist import Denylist, Entry, hash_path, hash_prefix

_NOT_KNOWN = Wanted()
_HOW_TO_REFIT = (
    "fit a new model without --from, promote it, and delete these: the statistics of a model cannot lose single "
    "pictures"
)
_Hash = Callable[[str, bytes], str]


@dataclass(frozen=True)
class Missed:
    """A requested path or prefix that matches nothing.

    Attributes:
        hash: its salted hash.
        where: the place in the request, like `line 17`; None if that is not known.
        asked: the text as given; None if it was given to an earlier run, of which only hashes are left.
        nearest: another spelling that matches, as a raw key or a prefix of raw keys; None if there is none.
        how: the difference between that spelling and the text as given.
        is_forgotten: whether that spelling was requested, too.
    """

    hash: str
    where: str | None
    asked: str | None = None
    nearest: str | None = None
    how: str | None = None
    is_forgotten: bool = False

    def __str__(self) -> str:
        # By repr, so that blanks and marks are visible.
        name = repr(self.asked) if self.asked is not None else f"{self.hash} (its path was given to an earlier run)"
        nearest = f"; nearest: {self.nearest!r} ({self.how})" if self.nearest else ""
        return f"{self.where or 'unknown'}: {name}{nearest}{', forgotten, too' if self.is_forgotten else ''}"


@dataclass(frozen=True)
class ExplainedReceipt:
    """The receipt, and the explanations for the person who asked."""

    receipt: Receipt
    missed: tuple[Missed, ...]

    def rows(self, *, dry_run: bool) -> Iterator[Row]:
        """The receipt for people, with a row for each path or prefix that matches nothing."""
        receipt = self.receipt
        yield "would remove" if dry_run else "removed", plural(sum(receipt.removed.values()), "row")
        for place, count in receipt.removed.items():
            yield "", f"{count:,} from {place}"
        for model in receipt.refit:
            yield "refit", f"{model.version} in {model.models}: {model.pictures:,} of its pictures"
        if receipt.refit:
            yield "", _HOW_TO_REFIT
        if self.missed:
            asked, listed = len(receipt.paths) + len(receipt.prefixes), "would be" if dry_run else "are"
            of_all = f"{len(self.missed):,} of {asked:,}"
            yield "unmatched", f"{of_all}: nothing has these; they {listed} on the denylist anyway"
            yield from (("", one) for one in self.missed)
        if not dry_run:
            yield "receipt", f"{receipt.output}/{receipt_name(receipt.id)}"

    def document(self) -> dict[str, object]:
        """The receipt for programs, with `unmatched` in full."""
        unmatched = None if self.receipt.unmatched is None else [asdict(one) for one in self.missed]
        return self.receipt.model_dump(mode="json") | {"unmatched": unmatched}


@dataclass(frozen=True)
class Forgotten(Answer):
    """The outcome of a run.

    Attributes:
        output: canonical path.
        dry_run: whether nothing was changed.
        receipts: of the runs that were killed, and of this one.
    """

    output: str
    dry_run: bool
    receipts: tuple[ExplainedReceipt, ...]

    def rows(self) -> Iterator[Row]:
        """The receipts, with an empty line in between."""
        if not self.receipts:
            yield f"nothing was asked for, and nothing is left to finish in {self.output}"
        for number, receipt in enumerate(self.receipts):
            yield from [""] * bool(number)
            yield from receipt.rows(dry_run=self.dry_run)

    def next_step(self) -> str | None:
        """To do what was only tried."""
        return "the same command without --dry-run" if self.dry_run else None

    def document(self) -> list[dict[str, object]]:
        """The receipts for programs."""
        return [receipt.document() for receipt in self.receipts]


class Search:
    """The search for the pictures of one entry of the denylist, and for other spellings of its paths.

    The request that the entry was made from is empty if it is not known any more.
    """

    def __init__(self, entry: Entry, wanted: Wanted = _NOT_KNOWN) -> None:
        self.entry = entry
        self._salt = bytes.fromhex(entry.salt)
        self._hashes = frozenset((*entry.paths, *(prefix.hash for prefix in entry.prefixes)))
        self._asked: dict[str, tuple[Asked, _Hash]] = {}
        self._found: set[str] = set()
        for group, hash_of in ((wanted.paths, _hash_path), (wanted.prefixes, _hash_prefix)):
            for one in group:
                self._asked.setdefault(hash_of(one.key, self._salt), (one, hash_of))
        self._wanted = wanted
        self.denylist = Denylist([entry])

    @cached_property
    def watched(self) -> Denylist:
        """The forgotten paths and prefixes, and other spellings of them."""
        paths, prefixes = (
            (spelling.key for one in group for spelling in one.spellings())
            for group in (self._wanted.paths, self._wanted.prefixes)
        )
        return Denylist([self.entry, Entry.of(paths, prefixes, self._salt, self.entry.asked_at)])

    def places(self) -> dict[str, str]:
        """The place of each path and prefix in the request, by its salted hash."""
        return {digest: asked.where for digest, (asked, _) in self._asked.items()}

    def note(self, hits: Iterable[bytes]) -> Iterable[str]:
        """Remember salted hashes that were found; returns those of the entry."""
        found = {hit.hex() for hit in hits}
        self._found |= found
        return found & self._hashes

    def explain(self, receipt: Receipt) -> ExplainedReceipt:
        """A receipt with its explanations."""
        return ExplainedReceipt(receipt, tuple(map(self._explained, receipt.unmatched or ())))

    def _explained(self, unmatched: Unmatched) -> Missed:
        missed = Missed(unmatched.hash, unmatched.where)
        if missed.hash not in self._asked:
            return missed
        asked, hash_of = self._asked[missed.hash]
        missed = replace(missed, asked=asked.text)
        for spelling in asked.spellings():
            if (digest := hash_of(spelling.key, self._salt)) in self._found:
                return replace(missed, nearest=spelling.key, how=spelling.how, is_forgotten=digest in self._hashes)
        return missed


def _hash_path(key: str, salt: bytes) -> str:
    return hash_path(key, salt).hex()


def _hash_prefix(key: str, salt: bytes) -> str:
    return hash_prefix(key.encode(), salt).hex()
