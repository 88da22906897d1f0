"""Fits the classifier on the executors, and measures another one that has not seen the held-out pictures.

The measured one stands on a PCA without the pictures of `held_back`, as the figures of the PCA itself do. The vectors
of all pictures stay on the executors; to the driver come coefficients, and three values for each held-out picture.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame
from pyspark.sql.functions import col
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.classes import Classes, Holdout
from batch_fit.held_back import Evidence, measure_errors
from streaming.features.classifier import Classifier
from streaming.features.projection import Projection
from streaming.registry.bundle import ClassifierFigures
from streaming.storage.folder import identity_of

_logger = logging.getLogger(__name__)

REGULARISATION = 0.001
"""Of the squared coefficients: without it, classes that can be told apart without an error have no best ones."""

MOST_ITERATIONS = 100

_PICTURES_PER_TASK = 5000

_VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False))
_VECTORS = pa.schema(
    [
        pa.field("label", pa.float64(), nullable=False),
        pa.field("is_held_out", pa.bool_(), nullable=False),
        pa.field("served", _VECTOR, nullable=False),
        pa.field("measured", _VECTOR, nullable=False),
    ]
)
"""The number of a picture's label, and its components by both PCAs."""

_ANSWERS = pa.schema(
    [
        pa.field("label", pa.float64(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of the measured classifier for m held-out pictures.

    Attributes:
        labels: (m,) the pictures' own.
        predicted: (m,) the classifier's.
        confidence: (m,) float64.
    """

    labels: NDArray[np.str_]
    predicted: NDArray[np.str_]
    confidence: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Classification:
    """A fitted classifier and what is known of it.

    Attributes:
        classifier: fitted to all pictures.
        classes: the labels.
        holdout: what was held out from the measured one.
        answers: None if it could not be measured.
        errors: (m,) float64, the reconstruction errors of the pictures that the PCA's figures hold out.
    """

    classifier: Classifier
    classes: Classes
    holdout: str
    answers: Answers | None
    errors: NDArray[np.float64]

    @property
    def figures(self) -> ClassifierFigures:
        """For the manifest."""
        answers = self.answers
        return ClassifierFigures(
            classes=len(self.classes.labels),
            left_out=tuple(self.classes.left_out),
            holdout=self.holdout,
            pictures=len(answers.labels) if answers else 0,
            accuracy=float((answers.labels == answers.predicted).mean()) if answers else None,
        )


def classify(
    rows: DataFrame, paths: list[str], classes: Classes, holdout: str, served: Projection, evidence: Evidence
) -> Classification:
    """Fit a classifier to pictures, to all of which `served` was fitted, and measure it as the setting `holdout` says.

    `rows`, which are read once, have path and features, the latter null if a picture was rejected; `paths` are those of
    the others.
    """
    held_back = frozenset(evidence.held_back.identities)
    held_out = Holdout.of(paths, classes, holdout, lambda path: identity_of(path) in held_back)
    measured = evidence.without_held_back(served.k)
    # Each of up to 100 iterations is a job over all vectors, and a task takes some milliseconds beside its pictures.
    tasks = min(rows.sparkSession.sparkContext.defaultParallelism, math.ceil(len(paths) / _PICTURES_PER_TASK))
    few = rows.select("path", "features").coalesce(tasks)
    project = _project_with(classes, held_out, served, measured or served)
    vectors = few.mapInArrow(project, from_arrow_schema(_VECTORS)).persist(StorageLevel.MEMORY_AND_DISK)
    classifier = _fit(vectors, "served", classes)
    answers, errors = None, np.zeros(0)
    if measured and held_out.series:
        seen = _fit(vectors.where(~col("is_held_out")), "measured", classes)
        answers = _ask(seen, vectors.where("is_held_out"), classes)
        errors, _ = measure_errors(measured, evidence.held_back.features)
    vectors.unpersist()
    return Classification(classifier, classes, holdout, answers, errors)


def _project_with(
    classes: Classes, held_out: Holdout, served: Projection, measured: Projection
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that runs in the workers: path and features of pictures to `_VECTORS`, of those with a label."""
    numbers = {label: float(number) for number, label in enumerate(classes.labels)}

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found = []
            for path, row in zip(batch.column("path").to_pylist(), batch.column("features"), strict=True):
                label = classes.label(path)
                if row.is_valid and label in numbers:
                    features = row.values.to_numpy()
                    vectors = (served.apply(features)[0], measured.apply(features)[0])
                    found.append((numbers[label], held_out.has(label, path), *vectors))
            columns = [[row[place] for row in found] for place in range(len(_VECTORS))]
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, _VECTORS, strict=True)], schema=_VECTORS
            )

    return project


def _fit(vectors: DataFrame, column: str, classes: Classes) -> Classifier:
    regression = LogisticRegression(
        featuresCol="pca",
        labelCol="label",
        family="multinomial",
        standardization=True,
        regParam=REGULARISATION,
        maxIter=MOST_ITERATIONS,
    )
    model = regression.fit(vectors.select("label", array_to_vector(col(column)).alias("pca")))
    iterations = model.summary.totalIterations
    _logger.debug("the classifier took %d iterations", iterations)
    if iterations >= MOST_ITERATIONS:
        _logger.info("the classifier was still getting a little better after %d iterations", iterations)
    # Labels whose pictures are all held out may be missing at the end.
    return Classifier(
        classes.labels[: model.numClasses], model.coefficientMatrix.toArray(), model.interceptVector.toArray()
    )


def _ask(classifier: Classifier, vectors: DataFrame, classes: Classes) -> Answers:
    """The answers for the `measured` vectors."""

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            answers = [classifier.apply(row.values.to_numpy()) for row in batch.column("measured")]
            columns = [batch.column("label"), *([row[place] for row in answers] for place in range(2))]
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, _ANSWERS, strict=True)], schema=_ANSWERS
            )

    table = vectors.select("label", "measured").mapInArrow(answer, from_arrow_schema(_ANSWERS)).toArrow()
    names = np.array(classes.labels)
    return Answers(
        names[table.column("label").to_numpy().astype(int)],
        table.column("predicted").to_numpy().astype(str),
        table.column("confidence").to_numpy(),
    )
