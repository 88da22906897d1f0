"""Chooses the pictures that the report shows: a few that say most, of those that the scatter plot shows as points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COMPONENTS = 4
_PER_END = 6
_MOST_WORST = 12
_TYPICAL = 200


@dataclass(frozen=True, eq=False)
class Sample:
    """The pictures that a fit has read and kept the features of, m of them.

    Attributes:
        paths: of each.
        labels: of each.
        scores: (m, k) float32, their components.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Worst:
    """The pictures that components express worst.

    Attributes:
        pictures: path and reconstruction error, the greatest first.
        measured: the number of pictures among which these are.
        held_out: whether they were measured by a model that has not seen them. A fitted picture has a small error.
    """

    pictures: Sequence[tuple[str, float]]
    measured: int
    held_out: bool

    @classmethod
    def of(cls, paths: Sequence[str], errors: NDArray[np.float64], *, held_out: bool) -> Worst:
        """The worst of pictures with these reconstruction errors."""
        worst = np.argsort(-errors, kind="stable")[:_MOST_WORST]
        return cls([(paths[place], float(errors[place])) for place in worst], len(paths), held_out)


@dataclass(frozen=True)
class Ends:
    """The pictures at both ends of a component.

    Attributes:
        component: 1 is the first.
        low: paths, the lowest score first.
        high: paths, the highest score last.
    """

    component: int
    low: Sequence[str]
    high: Sequence[str]


@dataclass(frozen=True)
class Chosen:
    """The pictures of the sample to show, by path.

    Attributes:
        ends: of the first components.
        typical: label, its number of pictures in the sample and the path of the one nearest to their centre, the most
            frequent label first.
        others: the number of labels that are left out of these.
    """

    ends: Sequence[Ends]
    typical: Sequence[tuple[str, int, str]]
    others: int

    def paths(self) -> Iterator[str]:
        """All of them; one may come several times."""
        for ends in self.ends:
            yield from (*ends.low, *ends.high)
        yield from (path for _, _, path in self.typical)


def choose_pictures(sample: Sample) -> Chosen:
    """The pictures to show; the same sample gives the same ones."""
    counts = Counter(sample.labels)
    labels = sorted(counts, key=lambda label: (-counts[label], label))
    return Chosen(
        ends=[_ends(sample, place) for place in range(min(_COMPONENTS, sample.scores.shape[1]))],
        typical=[(label, counts[label], _typical(sample, label)) for label in labels[:_TYPICAL]],
        others=len(labels[_TYPICAL:]),
    )


def _ends(sample: Sample, place: int) -> Ends:
    """Disjoint ends, also of few pictures."""
    order = np.argsort(sample.scores[:, place], kind="stable")
    count = min(_PER_END, len(order) // 2)
    low, high = order[:count], order[len(order) - count :]
    return Ends(place + 1, [sample.paths[one] for one in low], [sample.paths[one] for one in high])


def _typical(sample: Sample, label: str) -> str:
    """The path of the picture whose components are nearest to the mean of those of its label."""
    places = np.flatnonzero(np.array(sample.labels) == label)
    own = sample.scores[places].astype(np.float64)
    distances = np.square(own - own.mean(axis=0)).sum(axis=1)
    return sample.paths[int(places[np.argmin(distances)])]
