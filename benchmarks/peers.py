"""Pictures per second of a replay beside Daft and beside Ray Data, each with the same model on the same pictures.

    make bench-peers

The peers have an environment of their own, `.venv-peers`, which `make bench-peers` sets up. They decode, infer and
project by the code of this project, and write Parquet; see `benchmarks.support.daft_peer` and `ray_peer`. The replay
keeps no embeddings here, since the peers keep none. Each pair runs side by side, as `benchmarks.support.pairs` has it.
A picture of a peer counts once it is featurized, and one of the replay when it is committed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import Figure, link_pictures, print_figures
from benchmarks.support.counted import PICTURES
from benchmarks.support.pairs import compare, enough_pictures, noting, stream
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.streams import PROJECT

_PYTHON = PROJECT / ".venv-peers/bin/python"
_PEERS = (("Daft", "daft_peer"), ("Ray Data", "ray_peer"))
_SAMPLES = 2000


def measure() -> Iterator[Figure]:
    """The replay over each of the peers."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        samples = write_samples(Path(folder), _SAMPLES, broken=0).pictures
        for name, module in _PEERS:
            yield from _beside(name, module, samples)


def _beside(name: str, module: str, samples: list[Path]) -> Iterator[Figure]:
    with new_place() as place, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for pictures in (place.source, Path(folder, PICTURES)):
            link_pictures(pictures, samples, enough_pictures())
        peer = noting(name, Path(folder), module, _PYTHON)
        yield from compare(stream("replay", place, "--embeddings", "drop"), peer).figures("100x100", target=1)


if __name__ == "__main__":
    print_figures(measure())
