"""The fit: what Spark's own StandardScaler and PCA give, with a sign; a clear answer where there is nothing to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyspark.ml import Pipeline, PipelineModel, Transformer
from pyspark.ml.feature import PCA, PCAModel, StandardScaler, StandardScalerModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col

from batch_fit.pca import check_k, fit_pca
from batch_fit.pipeline import INPUT_COLUMN, OUTPUT_COLUMN, build_pipeline
from batch_fit.statistics import Statistics, merge_all
from conf.errors import InputError, SettingsError
from streaming.features.projection import Projection

Features = NDArray[np.float32]

COUNT, WIDTH, K = 150, 24, 6
CONSTANT = (0, 17)
"""Features that are the same for all pictures, as dead channels of a backbone are: one of 0, one of another value."""


def sample(count: int = COUNT, width: int = WIDTH) -> Features:
    """Correlated features of very different sizes, some of them constant."""
    chance = np.random.default_rng(11)
    features = chance.normal(size=(count, width)) @ chance.normal(size=(width, width)) * np.geomspace(1e-2, 1e2, width)
    features += np.linspace(-1, 50, width)
    features[:, CONSTANT] = 0.0, 0.1
    return features.astype(np.float32)


def fit(features: Features, k: int | None = None, variance: float | None = None) -> Projection:
    return fit_pca(merge_all(map(Statistics.of, np.array_split(features, 4))), k, variance)


def as_frame(spark: SparkSession, features: Features) -> DataFrame:
    rows = spark.createDataFrame([(row.tolist(),) for row in features.astype(np.float64)], ["values"])
    return rows.select(array_to_vector(col("values")).alias(INPUT_COLUMN))


def settings_of(stage: Transformer) -> dict[str, Any]:
    return {param.name: value for param, value in stage.extractParamMap().items()}


def transformed(model: PipelineModel, frame: DataFrame) -> NDArray[np.float64]:
    return np.array(model.transform(frame).select(vector_to_array(col(OUTPUT_COLUMN))).toPandas().iloc[:, 0].tolist())


def test_it_equals_a_pipeline_that_spark_fitted_and_saves_and_loads_as_one(spark: SparkSession, tmp_path: Path) -> None:
    frame = as_frame(spark, sample()).cache()
    scaler = StandardScaler(inputCol=INPUT_COLUMN, outputCol="standardised", withMean=True, withStd=True)
    fitted = Pipeline(stages=[scaler, PCA(k=K, inputCol="standardised", outputCol=OUTPUT_COLUMN)]).fit(frame)

    projection = fit(sample(), k=K)
    build_pipeline(spark, projection).save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))

    for ours, theirs in zip(loaded.stages, fitted.stages, strict=True):
        assert type(ours) is type(theirs)
        assert settings_of(ours) == settings_of(theirs)
    our_scaler, our_pca, their_scaler, their_pca = *loaded.stages, *fitted.stages
    assert isinstance(our_scaler, StandardScalerModel)
    assert isinstance(their_scaler, StandardScalerModel)
    assert isinstance(our_pca, PCAModel)
    assert isinstance(their_pca, PCAModel)
    np.testing.assert_allclose(our_scaler.mean.toArray(), their_scaler.mean.toArray(), rtol=1e-12)
    np.testing.assert_allclose(our_scaler.std.toArray(), their_scaler.std.toArray(), rtol=1e-12)
    np.testing.assert_allclose(our_pca.explainedVariance.toArray(), their_pca.explainedVariance.toArray(), rtol=1e-12)
    components = their_pca.pc.toArray()
    sign = np.sign((components * our_pca.pc.toArray()).sum(axis=0))
    np.testing.assert_allclose(our_pca.pc.toArray(), components * sign, atol=1e-12)
    np.testing.assert_allclose(transformed(loaded, frame), transformed(fitted, frame) * sign, atol=1e-11)


def test_the_pipeline_gives_what_the_stream_gives(spark: SparkSession) -> None:
    projection = fit(sample(), k=K)
    expected = np.stack([projection.apply(row)[0] for row in sample()])
    ours = transformed(build_pipeline(spark, projection), as_frame(spark, sample()))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_constant_feature_is_kept_and_counts_as_zero() -> None:
    projection = fit(sample(), k=K)
    assert len(projection.mean) == WIDTH
    assert not projection.std[list(CONSTANT)].any()
    assert np.abs(projection.components[list(CONSTANT)]).max() < 1e-15
    strange = sample()[:1].copy()
    strange[:, CONSTANT] = 1e6
    np.testing.assert_array_equal(projection.apply(strange[0])[0], projection.apply(sample()[0])[0])


def test_components_are_orthonormal_and_ordered_and_shares_sum_to_one() -> None:
    projection = fit(sample(), k=K)
    np.testing.assert_allclose(projection.components.T @ projection.components, np.eye(K), atol=1e-13)
    assert len(projection.explained_variance) == WIDTH
    assert (np.diff(projection.explained_variance) <= 0).all()
    assert projection.explained_variance.sum() == pytest.approx(1, abs=1e-14)
    assert projection.explained_variance.min() >= 0


@given(st.permutations(range(12)))
@settings(max_examples=25)
def test_signs_do_not_depend_on_the_order_of_the_pictures(order: list[int]) -> None:
    features = sample()
    pieces = np.array_split(features, 12)
    ours = fit_pca(merge_all(Statistics.of(pieces[i]) for i in order), K, None).components
    np.testing.assert_allclose(ours, fit(features, k=K).components, atol=1e-11)
    assert (ours[np.abs(ours).argmax(axis=0), np.arange(K)] > 0).all()


@pytest.mark.parametrize("variance", [0.01, 0.5, 0.9, 0.99, 0.999999])
def test_a_variance_target_takes_the_fewest_components_that_reach_it(variance: float) -> None:
    projection = fit(sample(), variance=variance)
    assert projection.explained_variance[: projection.k].sum() >= variance
    assert projection.explained_variance[: projection.k - 1].sum() < variance


def test_all_the_variance_is_in_as_many_components_as_pictures_vary_in() -> None:
    assert fit(sample(), variance=1.0).k == WIDTH - len(CONSTANT)
    assert fit(sample(10), variance=1.0).k == 9


def test_few_pictures_give_as_many_components_as_they_can() -> None:
    assert fit(sample(10), k=9).k == 9
    with pytest.raises(
        SettingsError, match=r"10 components, but these 10 pictures vary in 9 directions .* --k 9 or less"
    ):
        fit(sample(10), k=10)


@pytest.mark.parametrize(
    ("k", "pictures", "told"),
    [
        (4, 4, "4 components, but 4 pictures of 1280 features vary in 3 .* --k 3 or less, or more pictures"),
        (1281, 5000, "vary in 1,280 directions at most; give --k 1280 or less$"),
    ],
)
def test_more_components_than_there_can_be_are_refused_before_the_pass(k: int, pictures: int, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        check_k(k, pictures)
    for less in (k - 1, None):
        check_k(less, pictures)
    check_k(k, 1)  # of which something else is said


def test_copies_of_pictures_add_no_components() -> None:
    copies = np.concatenate([sample(5)] * 20)
    assert fit(copies, k=4).k == 4
    with pytest.raises(SettingsError, match="100 pictures vary in 4 directions"):
        fit(copies, k=5)


def test_no_picture_and_one_picture_are_too_few() -> None:
    with pytest.raises(InputError, match="no picture could be used"):
        fit(sample(0), k=1)
    with pytest.raises(InputError, match="1 picture could be used"):
        fit(sample(1), k=1)


def test_pictures_that_are_all_the_same_have_nothing_to_fit() -> None:
    with pytest.raises(InputError, match="all 30 pictures have the same features"):
        fit(np.repeat(sample(1), 30, axis=0), variance=0.9)


@pytest.mark.parametrize(("k", "variance"), [(None, None), (3, 0.9)])
def test_exactly_one_of_k_and_variance_decides(k: int | None, variance: float | None) -> None:
    with pytest.raises(SettingsError, match=r"fit\.k: .* fit\.variance: .* give either"):
        fit(sample(), k=k, variance=variance)
