"""The backbone: Keras's MobileNetV2, feature for feature, and an error one can act on where its weights are missing."""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from batch_fit import backbone as converting
from batch_fit.__main__ import main
from batch_fit.backbone import Backbone, load_backbone
from conf.errors import ModelError, PlatformError, SettingsError
from streaming.features.backbone import BackboneRunner
from tests.support.data import shared_data
from tests.support.waiting import locked

Array = NDArray[np.float32]

WEIGHTS_FILE = "models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


@pytest.fixture(scope="module")
def imagenet(all_workers: Path, tensorflow: None) -> Backbone:
    """Converted once for all workers, or by the fits of `test_readme.py`, which share their cache."""
    with locked(all_workers / "imagenet.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(shared_data() / "keras_home"))
        patch.setenv("XDG_CACHE_HOME", str(all_workers / "cache"))
        return load_backbone("imagenet")


@pytest.fixture(scope="module")
def child(tensorflow: None) -> Iterator[ProcessPoolExecutor]:
    """A process as `load_backbone` starts it for each conversion. The import of TensorFlow is most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(shared_data() / "keras_home"))
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=converting._isolate) as process:
            process.submit(os.getpid).result()  # it has the environment now
            yield process


@pytest.fixture
def _in_one_process(child: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "ProcessPoolExecutor", lambda *_, **__: nullcontext(child))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def pixels_of(path: Path) -> Array:
    """What Keras's `mobilenet_v2.preprocess_input` makes of the picture as Pillow resizes it by default."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((224, 224)), np.float32) / np.float32(127.5) - np.float32(1)


def features_of(flatbuffer: bytes, pictures: list[Array]) -> Array:
    runner = BackboneRunner(flatbuffer)
    return np.stack([runner.run(picture) for picture in pictures])


def keras_features_of(weights: str, pictures: list[Array]) -> Array:
    features: Array = converting._build(weights, 224).predict(np.stack(pictures), verbose=0)
    return features


def distances(actual: Array, expected: Array) -> Array:
    """Relative L2 distance of each row."""
    distance: Array = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return distance


def test_features_are_those_that_an_independent_team_computed_on_emr(imagenet: Backbone) -> None:
    with np.load(shared_data() / "emr_reference_apple_braeburn.npz") as reference:
        paths, expected = reference["path"], reference["features"]
    actual = features_of(imagenet.flatbuffer, [pixels_of(shared_data() / "fruits360" / path) for path in paths])
    assert len(paths) == 100
    assert distances(actual, expected).max() < 1e-5


@pytest.mark.usefixtures("empty_cache", "_in_one_process")
def test_a_weights_file_is_loaded_and_recorded_by_its_content(imagenet: Backbone, tmp_path: Path) -> None:
    source = shared_data() / "keras_home" / WEIGHTS_FILE
    file = tmp_path / "my weights.h5"
    shutil.copyfile(source, file)
    loaded = load_backbone(str(file))
    assert loaded.weights == f"my weights.h5 sha256:{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    assert loaded.flatbuffer == imagenet.flatbuffer


def test_litert_computes_what_keras_computes(imagenet: Backbone, child: ProcessPoolExecutor) -> None:
    fruits = sorted((shared_data() / "fruits360").glob("*/*.jpg"))[::97]
    cameras = sorted((shared_data() / "camera").glob("*/*.jpg"))[::7]
    pictures = [pixels_of(path) for path in (*fruits, *cameras)]
    expected = child.submit(keras_features_of, "imagenet", pictures).result()
    assert distances(features_of(imagenet.flatbuffer, pictures), expected).max() < 1e-5
    assert imagenet.weights == "imagenet"


def test_a_seed_gives_the_same_backbone_whatever_the_users_keras_is_set_to(
    backbone: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And TensorFlow says nothing, and stays out of this process."""
    (tmp_path / "keras.json").write_text(
        '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float16"}'
    )
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = load_backbone("random:00")
    assert capfd.readouterr() == ("", "")
    assert not {"tensorflow", "keras"} & set(sys.modules)
    assert again == Backbone(backbone, "random:0", 224)


def test_a_conversion_is_kept_for_the_next_fit(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the content of the weights; where it cannot be kept, nothing fails."""
    converted = iter((b"0", b"1", b"2", b"3", b"4", b"5"))
    monkeypatch.setattr(converting, "_convert_in_child", lambda weights, side: next(converted))
    caplog.set_level(logging.INFO)
    assert [load_backbone(f"random:{seed}").flatbuffer for seed in (0, 1, 0, 1)] == [b"0", b"1", b"0", b"1"]
    assert [load_backbone("random:0", side).flatbuffer for side in (160, 224, 160)] == [b"2", b"0", b"2"]
    assert caplog.text.count("converting the backbone") == 3
    monkeypatch.setenv("KERAS_HOME", str(shared_data() / "keras_home"))
    by_name = load_backbone("imagenet")
    assert load_backbone(str(shared_data() / "keras_home" / WEIGHTS_FILE)).flatbuffer == by_name.flatbuffer == b"3"
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert load_backbone("random:0").flatbuffer == b"4"
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # as in a container, whose user has no home
    assert load_backbone("random:0").flatbuffer == b"5"


@pytest.mark.usefixtures("_in_one_process")
def test_another_seed_gives_another_backbone(backbone: bytes) -> None:
    picture = np.random.default_rng(0).uniform(-1, 1, (224, 224, 3)).astype(np.float32)
    one, other = (features_of(flatbuffer, [picture]) for flatbuffer in (backbone, load_backbone("random:7").flatbuffer))
    assert np.isfinite(one).all()
    assert one.std() > 0
    assert distances(one, other)[0] > 0.1


@pytest.mark.usefixtures("empty_cache", "_in_one_process")
def test_the_same_weights_are_converted_at_another_side(backbone: bytes) -> None:
    """Beside the conversion at 224 pixels, which stays in the cache."""
    kept = load_backbone("random:0", 160)
    assert load_backbone("random:0", 160) == kept
    assert kept.side == 160
    picture = np.random.default_rng(0).uniform(-1, 1, (160, 160, 3)).astype(np.float32)
    assert np.array_equal(BackboneRunner(kept.flatbuffer).run(picture), BackboneRunner(backbone, 160).run(picture))


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random:1.5", "random:4294967296", "random:٣"])
def test_a_seed_is_a_whole_number_that_numpy_takes(weights: str) -> None:
    with pytest.raises(SettingsError, match=rf"fit\.weights: '{weights}' is not allowed: SEED is .* 0 to 4294967295"):
        load_backbone(weights)


@pytest.mark.parametrize("weights", ["imagnet", "ImageNet", "", "weights.onnx"])
def test_what_is_none_of_the_three_is_refused(weights: str) -> None:
    with pytest.raises(SettingsError, match=r"give imagenet, random:SEED, or the path of a Keras weights file"):
        load_backbone(weights)


def test_a_weights_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"cannot read {tmp_path}/none\.h5: No such file"):
        load_backbone(str(tmp_path / "none.h5"))


@pytest.mark.usefixtures("empty_cache", "_in_one_process")
def test_a_weights_file_of_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "text.h5"
    file.write_text("not weights")
    with pytest.raises(ModelError, match=rf"fit\.weights: {file} does not fit MobileNetV2 without top: .*open file"):
        load_backbone(str(file))


@pytest.mark.usefixtures("backbone")  # converted before
def test_what_was_converted_elsewhere_needs_no_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made" / "backbone.tflite"
    assert main(["convert", "--weights", "random:0", "--to", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"random:0 at 224 pixels converted: {file} ({file.stat().st_size:,} bytes)\n")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(converting, "ProcessPoolExecutor", None)  # in which TensorFlow would be imported
    loaded = load_backbone(str(file))
    assert loaded.flatbuffer == file.read_bytes()
    assert loaded.weights == f"backbone.tflite sha256:{hashlib.sha256(loaded.flatbuffer).hexdigest()[:12]}"


def test_a_converted_backbone_has_a_name_that_a_fit_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--weights", "random:7", "--to", str(tmp_path / "backbone.bin")]) == 2
    assert "the name has to end with .tflite" in capsys.readouterr().err


def test_a_missing_tensorflow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('No module named tensorflow')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PlatformError, match=r"TensorFlow cannot be imported .* pip install 'picture-features\[fit\]'"):
        load_backbone("random:0")


def test_a_crash_of_tensorflow_is_an_error_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    (tmp_path / "tensorflow.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PlatformError, match="TensorFlow crashed"):
        load_backbone("random:0")
