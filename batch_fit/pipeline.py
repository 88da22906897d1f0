"""A fitted scaler and PCA as a genuine Spark ML PipelineModel, which anybody loads with `pyspark.ml` alone.

It owns the way through Spark's JVM constructors; it must not know how the values were fitted or where they are saved.
"""

from __future__ import annotations

from pyspark.ml import PipelineModel
from pyspark.ml.feature import PCAModel, StandardScalerModel
from pyspark.ml.linalg import DenseMatrix, DenseVector
from pyspark.sql import SparkSession

from streaming.features.projection import Projection

INPUT_COLUMN = "features"
STANDARDISED_COLUMN = "standardised"
OUTPUT_COLUMN = "pca"

_PACKAGE = "org.apache.spark.ml.feature"


def build_pipeline(spark: SparkSession, projection: Projection) -> PipelineModel:
    """The PipelineModel [StandardScalerModel, PCAModel] that Spark would have fitted.

    Its columns are vectors: it reads `features` (d values; `pyspark.ml.functions.array_to_vector` makes a vector of an
    array), and adds `standardised` (d) and `pca` (k).

    Args:
        spark: the active session, whose JVM is to hold the model.
        projection: the fitted values.
    """
    # The constructors are private to Spark in Scala; in the JVM, and for PySpark's own wrappers, they are public.
    scaler = StandardScalerModel._create_from_java_class(  # noqa: SLF001 - pyspark has no other way to make a model from numbers
        f"{_PACKAGE}.StandardScalerModel", "scaler", DenseVector(projection.std), DenseVector(projection.mean)
    )
    scaler.setInputCol(INPUT_COLUMN).setOutputCol(STANDARDISED_COLUMN)
    scaler.set(scaler.withMean, True)
    scaler.set(scaler.withStd, True)
    pca = PCAModel._create_from_java_class(  # noqa: SLF001 - pyspark has no other way to make a model from numbers
        f"{_PACKAGE}.PCAModel",
        "pca",
        DenseMatrix(len(projection.mean), projection.k, projection.components.ravel(order="F")),
        DenseVector(projection.explained_variance[: projection.k]),
    )
    pca.setInputCol(STANDARDISED_COLUMN).setOutputCol(OUTPUT_COLUMN)
    pca.set(pca.k, projection.k)
    return PipelineModel([scaler, pca])
