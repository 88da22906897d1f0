"""Measures the drift of real pictures, and how much two fits on samples of the same pictures differ.

    python -m benchmarks.drift

It fits on photographs of fruit from `../shared/data`, but for every third picture and every sixth class, and replays
into tables of their own: the third pictures, the classes that the fit has not seen, and photographs that cameras took
of anything. Then it fits pairs of models on random halves of the pictures and compares them as a refit is compared.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch_fit.comparison import TOLERANCE, Contender, compare
from batch_fit.held_back import Evidence, HeldBack, is_held_back
from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from benchmarks.support.common import CORES, Figure, print_figures, run_program
from conf.settings import StreamSettings
from streaming.engine.drift import DriftMonitor
from streaming.features.imaging import DEFAULT_SIDE
from streaming.registry.bundle import HeldBackFigures
from streaming.registry.registry import Registry
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from tests.support.data import SHARED
from tests.support.streams import Place

_VARIANCE = 0.9
_PAIRS = 5


def _link(folder: Path, pictures: Iterable[Path]) -> None:
    for picture in pictures:
        target = folder / picture.parent.name / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(picture)


def _sets(root: Path) -> tuple[Path, dict[str, Path]]:
    """The folder to fit on, and those to replay."""
    classes = sorted((SHARED / "fruits360").iterdir())
    seen = [picture for number, one in enumerate(classes) if number % 6 for picture in sorted(one.iterdir())]
    sets = {
        "held-back pictures of the same classes": seen[::3],
        "classes that the fit has not seen": [picture for one in classes[::6] for picture in sorted(one.iterdir())],
        "photographs of anything": sorted(file for file in (SHARED / "camera").rglob("*") if file.is_file()),
    }
    _link(root / "fitted", (picture for number, picture in enumerate(seen) if number % 3))
    for number, pictures in enumerate(sets.values()):
        _link(root / str(number), pictures)
    return root / "fitted", {name: root / str(number) for number, name in enumerate(sets)}


def _errors(place: Place, pictures: Path) -> NDArray[np.float32]:
    """Of pictures in the order of their paths, which is class by class, featurized by a replay."""
    output = place.root / f"table-{pictures.name}"
    places = ["--input", str(pictures), "--models", str(place.models), "--output", str(output)]
    run_program("streaming", ["replay", *places, "--master", f"local[{CORES},4]", "--settle", "0s"])
    table = ds.dataset(output / "features", format="parquet").to_table(["path", "reconstruction_error"])
    errors: NDArray[np.float32] = table.sort_by("path").column("reconstruction_error").to_numpy()
    return errors


def _highest_drift(fitted: HeldBackFigures, errors: NDArray[np.float32]) -> float:
    """The highest figure while the pictures come one by one."""
    monitor, highest = DriftMonitor(1, "refit"), 0.0
    for number in range(len(errors)):
        window = monitor.look("one", fitted, errors[number : number + 1])
        monitor.keep(window)
        highest = max(highest, window.drift or 0)
    return highest


def _contender(identities: list[bytes], features: NDArray[np.float32]) -> Contender:
    held = {one: row for one, row in zip(identities, features, strict=True) if is_held_back(one)}
    others = np.array([row for one, row in zip(identities, features, strict=True) if one not in held])
    evidence = Evidence(Statistics.of(others), HeldBack.of(held))
    k = fit_pca(evidence.statistics, None, _VARIANCE).k
    return Contender("", "", "imagenet", DEFAULT_SIDE, k, evidence, set(identities), classifies=False)


def _differences(saved: Path) -> list[float]:
    """By how much the share of variance kept differs in pairs of fits on random halves."""
    table = pq.read_table(saved).sort_by("path")
    identities = [identity_of(path) for path in table.column("path").to_pylist()]
    features = np.array(table.column("features").to_pylist(), np.float32)
    chance, differences = np.random.default_rng(0), []
    for _ in range(_PAIRS):
        one, other = np.array_split(chance.permutation(len(identities)), 2)
        pair = [_contender([identities[place] for place in half], features[half]) for half in (one, other)]
        compared = compare(*pair)
        differences.append(abs((compared.variance_kept or 0) - (compared.current_variance_kept or 0)))
    return differences


def measure() -> Iterator[Figure]:
    """Fit, replay and compare."""
    os.environ.setdefault("KERAS_HOME", str(SHARED / "keras_home"))
    threshold = StreamSettings().drift_threshold
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = Place(Path(folder))
        to_fit, sets = _sets(place.root)
        saved = place.root / "saved"
        fit = ["fit", "--input", str(to_fit), "--models", str(place.models), "--variance", str(_VARIANCE)]
        run_program("batch_fit", [*fit, "--save-features", str(saved), "--master", f"local[{CORES},4]"])
        [manifest] = Registry(open_folder(str(place.models))).versions()
        assert manifest.held_back
        figures = f"{manifest.pictures:,} pictures, {manifest.held_back.pictures} of them held back, k = {manifest.k}"
        yield Figure("fitted to", figures)
        yield Figure("variance kept, of pictures held back", f"{manifest.held_back.variance_kept:.1%}")
        for number, (name, pictures) in enumerate(sets.items()):
            errors = _errors(place, pictures)
            above = float((errors > manifest.held_back.error_p95).mean())
            yield Figure(f"above the fit's p95, of {len(errors)} {name}", f"{above:.0%}")
            drift = _highest_drift(manifest.held_back, errors)
            target = [f"<= {threshold}", "", f"> {threshold}"][number]
            met = [drift <= threshold, None, drift > threshold][number]
            yield Figure(f"highest drift, {name}", f"{drift:.2f}", target, met)
        differences = _differences(saved)
        yield Figure(
            "fits on halves of these, variance kept differs by (mean, most)",
            f"{np.mean(differences):.1%}, {max(differences):.1%}",
        )
        share = np.mean(np.array(differences) <= TOLERANCE)
        yield Figure(f"of {_PAIRS} pairs, within the tolerance of {TOLERANCE:.0%}", f"{share:.0%}")


if __name__ == "__main__":
    print_figures(measure())
