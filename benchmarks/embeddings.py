"""Measures what keeping the embeddings costs a stream, and what a refit from them saves.

    python -m benchmarks.embeddings [ROWS [FILES [ROUNDS]]]

A replay that keeps them and one that drops them run side by side, as `benchmarks.support.pairs` has it. A fit and a
refit run in turn, as whole programs. The large table is synthetic: half of its numbers are 0, as of the backbone, and
the others are random.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.support.common import (
    CORES,
    ROUNDS,
    Figure,
    arguments,
    at_least,
    costs,
    link_pictures,
    print_figures,
    run_measured,
    run_program,
    spread,
)
from benchmarks.support.pairs import compare, enough_pictures, stream
from streaming.features.backbone import backbone_id
from streaming.features.schema import EMBEDDINGS, FEATURE_COUNT
from streaming.output.embeddings import embeddings_files
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet, read_size
from tests.support.samples import write_samples
from tests.support.scratch import new_place, read_backbone
from tests.support.streams import Place, begin

_PICTURES = 20_000
_ROWS = 1_000_000
_FILES = 10_000


def measure(rows: int = _ROWS, files: int = _FILES, rounds: int = ROUNDS) -> Iterator[Figure]:
    """The stream with and without, a refit beside a fit, and a refit on a large table."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        samples = write_samples(Path(folder), 2000, broken=0).pictures
        yield from _kept_beside_dropped(samples)
        yield from _refit_beside_fit(samples, rounds)
    yield from _refit_of_many(rows, files, rounds)


def _kept_beside_dropped(samples: list[Path]) -> Iterator[Figure]:
    with new_place() as kept, new_place() as dropped:
        for place in (kept, dropped):
            link_pictures(place.source, samples, enough_pictures())
        keeping = stream("replay that keeps embeddings", kept, "--embeddings", "keep")
        dropping = stream("one that drops them", dropped, "--embeddings", "drop")
        yield from compare(keeping, dropping).figures("100x100", target=0.97)


def _refit_beside_fit(samples: list[Path], rounds: int) -> Iterator[Figure]:
    with new_place() as place:
        link_pictures(place.source, samples, _PICTURES)
        weights = place.root / "backbone.tflite"
        weights.write_bytes(read_backbone())
        run_program("streaming", arguments(place, "replay"))
        output = open_folder(str(place.output))
        stored = sum(read_size(output, name).bytes for name in embeddings_files(output))
        yield Figure("embeddings, bytes a picture (generated pictures)", f"{stored / _PICTURES:,.0f}")
        fits, refits = [], []
        for _ in range(rounds):
            fits.append(run_program("batch_fit", _fit(place, "--input", str(place.source), "--weights", str(weights))))
            refits.append(run_program("batch_fit", _fit(place, "--embeddings", str(place.output))))
        yield Figure(f"fit on {_PICTURES:,} pictures, whole program", spread(fits, ".1f", " s"))
        yield Figure("refit on their embeddings, whole program", spread(refits, ".1f", " s"))
        ratios = [fit / refit for fit, refit in zip(fits, refits, strict=True)]
        yield at_least("fit over refit", ratios, 20)


def _refit_of_many(rows: int, files: int, rounds: int) -> Iterator[Figure]:
    with new_place() as place:
        _write_embeddings(place.output, rows, files)
        words = _fit(place, "--embeddings", str(place.output))
        runs = [run_measured("batch_fit", words) for _ in range(rounds)]
    yield from costs(f"refit on {rows:,} embeddings in {files:,} files", runs, 150, 2)


def _fit(place: Place, *more: str) -> list[str]:
    log = ["--log-folder", str(place.root / "log"), "--master", f"local[{CORES},4]"]
    return ["fit", "--models", str(place.models), "--k", "100", *log, *more]


def _write_embeddings(output: Path, rows: int, files: int) -> None:
    begin(open_folder(str(output)))
    backbone, each = backbone_id(read_backbone()), rows // files
    for number in range(files):
        random = np.random.default_rng(number)
        values = np.maximum(random.standard_normal((each, FEATURE_COUNT), np.float32), 0)
        at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=number)
        table = {
            "path": [f"/pictures/{number:06}/{row:06}.jpg" for row in range(each)],
            "embedding": pa.ListArray.from_arrays(
                pa.array(np.arange(0, values.size + 1, FEATURE_COUNT, dtype=np.int32)), pa.array(values.ravel())
            ),
            "backbone": [backbone] * each,
            "processed_at": [at] * each,
        }
        file = output / f"embeddings/date={at:%Y-%m-%d}/{number:06}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_parquet(pa.table(table).cast(EMBEDDINGS)))


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
