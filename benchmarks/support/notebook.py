"""This job as notebooks usually do it, as a program: the baseline of the replay's benchmark.

    python -m benchmarks.support.notebook PICTURES PIPELINE OUTPUT

binaryFile with content, repartition, a pandas UDF in which Keras predicts with broadcast weights, a pyspark.ml pipeline
for the PCA, Parquet.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, element_at, split
from pyspark.sql.pandas.functions import pandas_udf

from batch_fit.pipeline import INPUT_COLUMN, OUTPUT_COLUMN
from benchmarks.support.common import CORES

_PARTITIONS = CORES  # kind to this shape: it builds its model once per partition


def _model(weights: list[NDArray[np.float32]] | None) -> keras.Model:
    model = keras.applications.MobileNetV2(input_shape=(224, 224, 3), include_top=False, pooling="avg", weights=None)
    if weights is not None:
        model.set_weights(weights)
    return model


def _pixels(content: bytes) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224))
    pixels: NDArray[np.float32] = keras.applications.mobilenet_v2.preprocess_input(np.asarray(image, np.float32))
    return pixels


def main() -> None:
    """Featurize a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pictures", "pipeline", "output"):
        parser.add_argument(name)
    options = parser.parse_args()

    spark = SparkSession.builder.master(f"local[{CORES}]").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "1024")
    weights = spark.sparkContext.broadcast(_model(None).get_weights())

    def featurize(contents: Iterator[pd.Series]) -> Iterator[pd.Series]:
        model = _model(weights.value)
        for content in contents:
            yield pd.Series(list(model.predict(np.stack([*map(_pixels, content)]), verbose=0)))

    predict = pandas_udf(featurize, "array<float>")  # type: ignore[call-overload] # the stubs know no such UDF
    pictures = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(options.pictures)
    features = pictures.repartition(_PARTITIONS).select(
        "path",
        element_at(split("path", "/"), -2).alias("label"),
        array_to_vector(predict("content")).alias(INPUT_COLUMN),
    )
    reduced = PipelineModel.load(options.pipeline).transform(features)
    reduced.select("path", "label", vector_to_array(col(OUTPUT_COLUMN)).alias("features")).write.parquet(options.output)
    spark.stop()


if __name__ == "__main__":
    main()
