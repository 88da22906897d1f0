"""Statistics and PCA of given features, against MLlib's StandardScaler and PCA on the same Parquet files.

    python -m benchmarks.pca

Both read the files, which are in the page cache. They take turns; the first turn stands apart, because a
JVM's first run on much data takes several times as long. That they agree is checked, too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import PCA, PCAModel, StandardScaler
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics, fold_batch, merge_all
from benchmarks.support.common import CORES, Figure, at_least, print_figures, spread
from conf.loading import load_settings
from conf.spark.session import start_session
from streaming.features.projection import Projection
from streaming.features.schema import FEATURE_COUNT, OUTCOMES
from tests.support.scratch import COMPONENTS

PICTURES = 24_000
FILES = 8
TURNS = 6  # the first one in a new JVM
TARGET = 8.0


def write_features(folder: Path) -> None:
    """Features like a backbone's: never negative, correlated, a few of them dead."""
    chance = np.random.default_rng(0)
    mixing = chance.normal(size=(64, FEATURE_COUNT)).astype(np.float32)
    schema = pa.schema([OUTCOMES.field("features")])
    folder.mkdir()
    for number in range(FILES):
        factors = chance.normal(size=(PICTURES // FILES, len(mixing))).astype(np.float32)
        features = factors @ mixing + chance.normal(size=(len(factors), FEATURE_COUNT)).astype(np.float32)
        features[:, :3] = -1
        rows = pa.array(list(np.maximum(features, 0)), schema.field(0).type)
        pq.write_table(pa.table([rows], schema), folder / f"{number}.parquet")


def fit_ours(spark: SparkSession, folder: Path) -> Projection:
    """As the fit does: fold on the workers, merge and decompose on the driver."""
    partial = spark.read.parquet(str(folder)).mapInArrow(_fold, "statistics binary").toArrow()
    statistics = merge_all(map(Statistics.from_bytes, partial.column(0).to_pylist()))
    return fit_pca(statistics, COMPONENTS, None)


def _fold(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield pa.record_batch({"statistics": [merge_all(map(fold_batch, batches)).to_bytes()]})


def fit_mllib(spark: SparkSession, folder: Path) -> PipelineModel:
    """As anybody would with pyspark.ml."""
    vectors = spark.read.parquet(str(folder)).select(array_to_vector(col("features")).alias("features"))
    scaler = StandardScaler(inputCol="features", outputCol="standardised", withMean=True, withStd=True)
    return Pipeline(stages=[scaler, PCA(k=COMPONENTS, inputCol="standardised", outputCol="pca")]).fit(vectors)


def measure() -> list[Figure]:
    """Fit both ways on `PICTURES` pictures."""
    ours: list[float] = []
    mllib: list[float] = []
    difference = 0.0
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data = Path(folder, "features")
        write_features(data)
        spark = start_session("benchmark", load_settings({"spark.master": f"local[{CORES}]"}), {})
        try:
            for _ in range(TURNS):
                started = time.perf_counter()
                projection = fit_ours(spark, data)
                ours.append(time.perf_counter() - started)
                started = time.perf_counter()
                pipeline = fit_mllib(spark, data)
                mllib.append(time.perf_counter() - started)
                difference = _difference(projection, pipeline)
        finally:
            spark.stop()
    size, (first, *ratios) = (
        f"{PICTURES:,} x {FEATURE_COUNT}",
        [one / other for one, other in zip(mllib, ours, strict=True)],
    )
    return [
        Figure(f"statistics and PCA, {size}", spread(ours[1:], ".1f", " s")),
        Figure(f"MLlib's StandardScaler and PCA, {size}", spread(mllib[1:], ".1f", " s")),
        Figure("largest difference of an entry of a component", f"{difference:.0e}", "1e-10", difference < 1e-10),
        Figure("fit over MLlib, first turn of a new JVM, ours before MLlib's", f"{first:.1f}x"),
        at_least("fit over MLlib", ratios, TARGET),
    ]


def _difference(ours: Projection, mllib: PipelineModel) -> float:
    """Of the components, up to sign."""
    pca = mllib.stages[1]
    assert isinstance(pca, PCAModel)
    theirs = pca.pc.toArray()
    signs = np.sign((theirs * ours.components).sum(axis=0))
    return float(np.abs(theirs * signs - ours.components).max())


if __name__ == "__main__":
    print_figures(measure())
