"""The labels that a classifier is to tell apart, and the pictures that are held out to measure it.

Both follow from paths alone, so what cannot be classified is refused before a picture is read.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from conf.errors import InputError, SettingsError
from streaming.features.schema import label_of

FEWEST = 10
"""The least number of pictures of a label."""

MOST_LABELS = 1000
"""The most labels: the time and memory of a fit grow with their number times that of the components."""

PICTURE = "picture"
"""The setting `fit.holdout` that holds out single pictures."""

_ONE_IN = 10
_NUMBERS_AT_END = re.compile(r"(?:(?:^|[\W_]+)\d+)+$|\d+$")


@dataclass(frozen=True)
class Classes:
    """The labels of a fit.

    Attributes:
        source: canonical path of the input; a picture directly in it has no label.
        labels: those to tell apart, sorted.
        left_out: the others, with their number of pictures.
    """

    source: str
    labels: tuple[str, ...]
    left_out: dict[str, int]

    @classmethod
    def of(cls, paths: Iterable[str], source: str) -> Classes:
        """The labels of these pictures.

        Raises:
            InputError: there are no labels, fewer than two with enough pictures, or more than `MOST_LABELS`.
        """
        counts = Counter(label_of(path) for path in paths if not _is_directly_in(source, path))
        if not counts:
            raise InputError(
                f"fit.classify: there are no labels, as all pictures lie directly in {source}; give each label a folder"
            )
        labels = sorted(label for label, count in counts.items() if count >= FEWEST)
        if len(labels) < 2:  # noqa: PLR2004 - nothing to tell apart
            only = f"only {labels[0]!r} of {len(counts):,} has" if labels else f"none of {len(counts):,} has"
            raise InputError(
                f"fit.classify: a classifier needs two labels with {FEWEST} pictures or more, and {only} so many; "
                "add pictures, or give --no-classify"
            )
        if len(labels) > MOST_LABELS:
            raise InputError(
                f"fit.classify: {len(labels):,} labels have {FEWEST} pictures or more, and a classifier takes "
                f"{MOST_LABELS:,} at most; is each label, the name of a picture's folder, a kind of thing?"
            )
        return cls(source, tuple(labels), {label: n for label, n in sorted(counts.items()) if n < FEWEST})

    def label(self, path: str) -> str | None:
        """The label of a picture; None if it is not one of those to tell apart."""
        label = label_of(path)
        return None if label in self.left_out or _is_directly_in(self.source, path) else label


def shared_folder(paths: Sequence[str]) -> str:
    """The folder that all of these pictures are in, directly or not; their input, if that is not known."""
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    shared = takewhile(lambda parts: parts[0] == parts[1], zip(first, last, strict=False))
    return "/".join(part for part, _ in shared)


def _is_directly_in(source: str, path: str) -> bool:
    return path.rpartition("/")[0] == source


@dataclass(frozen=True)
class Holdout:
    """The series of pictures that are held out; a value that is sent to the workers.

    Attributes:
        kind: the setting `fit.holdout`, which says what a series is.
        series: label and name of each of them.
    """

    kind: str
    series: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, paths: Iterable[str], classes: Classes, kind: str, is_held_out: Callable[[str], bool]) -> Holdout:
        """Of single pictures, those of which `is_held_out`; of series, a tenth of those of each label, chosen by hash.

        Raises:
            SettingsError: no label has two series.
        """
        by_label: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            label = classes.label(path)
            if label is not None and (kind != PICTURE or is_held_out(path)):
                by_label[label].add(_series(path, kind))
        if kind == PICTURE:
            return cls(kind, frozenset((label, one) for label, series in by_label.items() for one in series))
        chosen = [
            (label, one)
            for label, series in by_label.items()
            if len(series) > 1
            for one in sorted(series, key=_hash)[: max(1, len(series) // _ONE_IN)]
        ]
        if not chosen:
            raise SettingsError(
                f"fit.holdout: by {kind}, each label has one series only, and none can be held out; "
                f"give --holdout {PICTURE}, as the setting of the model before it is taken over; its help says what a "
                "series is"
            )
        return cls(kind, frozenset(chosen))

    def has(self, label: str, path: str) -> bool:
        """Whether a picture is held out."""
        return (label, _series(path, self.kind)) in self.series


def _series(path: str, kind: str) -> str:
    """The name of a picture's series among those of its label."""
    folder, _, name = path.rpartition("/")
    if kind == "folder":
        return folder.rpartition("/")[0]
    return _NUMBERS_AT_END.sub("", name.rpartition(".")[0] or name) if kind == "prefix" else path


def _hash(series: str) -> bytes:
    return hashlib.sha256(series.encode()).digest()
