"""Builds a genuine Spark ML PipelineModel of a fitted scaler, PCA and classifier, which `pyspark.ml` alone can load.

It calls Spark's JVM constructors, as PySpark has no public way to make a model from numbers.
"""

from __future__ import annotations

from pyspark.ml import PipelineModel, Transformer
from pyspark.ml.classification import LogisticRegressionModel
from pyspark.ml.feature import IndexToString, PCAModel, StandardScalerModel
from pyspark.ml.linalg import DenseMatrix, DenseVector
from pyspark.sql import SparkSession

from streaming.features.classifier import Classifier
from streaming.features.projection import Projection

INPUT_COLUMN = "features"
STANDARDISED_COLUMN = "standardised"
OUTPUT_COLUMN = "pca"
NUMBER_COLUMN = "prediction"
LABEL_COLUMN = "predicted_label"

_PACKAGE = "org.apache.spark.ml"


def build_pipeline(spark: SparkSession, projection: Projection, classifier: Classifier | None = None) -> PipelineModel:
    """The PipelineModel [StandardScalerModel, PCAModel] that Spark would have fitted.

    Its columns are vectors: it reads `features` (d values; `pyspark.ml.functions.array_to_vector` makes a vector of an
    array), and adds `standardised` (d) and `pca` (k). With a classifier of c labels, a LogisticRegressionModel follows,
    which adds `rawPrediction` (c), `probability` (c) and the number `prediction`, and an IndexToString, which adds
    `predicted_label`. The JVM of the session holds the model.
    """
    # The constructors are private to Spark in Scala; in the JVM, and for PySpark's own wrappers, they are public.
    scaler = StandardScalerModel._create_from_java_class(  # noqa: SLF001 - pyspark has no other way to make a model from numbers
        f"{_PACKAGE}.feature.StandardScalerModel", "scaler", DenseVector(projection.std), DenseVector(projection.mean)
    )
    scaler.setInputCol(INPUT_COLUMN).setOutputCol(STANDARDISED_COLUMN)
    scaler.set(scaler.withMean, True)
    scaler.set(scaler.withStd, True)
    pca = PCAModel._create_from_java_class(  # noqa: SLF001 - pyspark has no other way to make a model from numbers
        f"{_PACKAGE}.feature.PCAModel",
        "pca",
        DenseMatrix(len(projection.mean), projection.k, projection.components.ravel(order="F")),
        DenseVector(projection.explained_variance[: projection.k]),
    )
    pca.setInputCol(STANDARDISED_COLUMN).setOutputCol(OUTPUT_COLUMN)
    pca.set(pca.k, projection.k)
    return PipelineModel([scaler, pca, *(_classifying(classifier) if classifier else [])])


def _classifying(classifier: Classifier) -> list[Transformer]:
    count, k = classifier.coefficients.shape
    regression = LogisticRegressionModel._create_from_java_class(  # noqa: SLF001 - as above
        f"{_PACKAGE}.classification.LogisticRegressionModel",
        "classifier",
        DenseMatrix(count, k, classifier.coefficients.ravel(order="F")),
        DenseVector(classifier.intercepts),
        count,
        True,
    )
    regression.setFeaturesCol(OUTPUT_COLUMN).setPredictionCol(NUMBER_COLUMN)
    names = IndexToString(inputCol=NUMBER_COLUMN, outputCol=LABEL_COLUMN, labels=list(classifier.labels))
    return [regression, names]
