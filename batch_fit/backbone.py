"""Converts Keras's MobileNetV2 to a LiteRT flatbuffer; the only module that imports TensorFlow.

TensorFlow runs in an isolated process, so that its 740 MB do not stay in the Spark driver, its output from C++ can be
silenced as a whole, and a crash does not end the fit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING

from batch_fit import converted
from conf.errors import BundleError, ModelError, PlatformError, SettingsError
from conf.uris import resolve
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import DEFAULT_SIDE
from streaming.registry.bundle import BACKBONE, Bundle

if TYPE_CHECKING:
    import keras

_IMAGENET = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"  # as Keras names it
_MAX_SEED = 2**32 - 1  # NumPy's, one of the generators that Keras seeds
_NETWORK_TIMEOUT = 20  # seconds

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """A backbone ready to run.

    Attributes:
        flatbuffer: LiteRT model, (1, side, side, 3) float32 in [-1, 1] to (1, 1280) float32.
        weights: their name: `imagenet`, `random:SEED`, or a file's name and the beginning of its SHA-256.
        side: width and height of its input in pixels.
    """

    flatbuffer: bytes = field(repr=False)
    weights: str
    side: int

    @classmethod
    def of(cls, model: Bundle) -> Backbone:
        """The backbone of a model."""
        return cls(model.file(BACKBONE), model.manifest.weights, model.manifest.side)


def load_backbone(weights: str, side: int | None = None) -> Backbone:
    """MobileNetV2 (width 1.0, no top, average-pooled) with these weights, converted now or for an earlier fit.

    A conversion takes 10 s, or a minute on a busy machine.

    Args:
        weights: `imagenet`, from Keras's cache (`KERAS_HOME`, by default `~/.keras`) or else downloaded; the path of a
            Keras weights file; `random:SEED`, which gives the same flatbuffer for the same seed; or the path of a
            converted backbone, which is taken as it is and needs no TensorFlow.
        side: of the pictures that it sees; None for that of a converted backbone, or else 224. The weights are the same
            at each side: Keras's `imagenet` are those that were trained at 224.

    Raises:
        SettingsError: `weights` is none of these, or a converted backbone of another side.
        ModelError: the weights cannot be loaded or do not fit.
        PlatformError: TensorFlow is needed, and is not installed or does not run.
    """
    described = describe_weights(weights)
    if weights.endswith(converted.CONVERTED):
        return _as_it_is(weights, described, side)
    side = side or DEFAULT_SIDE
    identity = _identity(weights)
    kept_as = identity and converted.name_of(f"MobileNetV2 1.0 {side} avg {identity}")
    if kept_as and (kept := converted.read(kept_as)):
        return Backbone(kept, described, side)
    _logger.info("converting the backbone; this takes a while, and the result is kept for the next fit")
    flatbuffer = _convert_in_child(weights, side)
    if kept_as:
        converted.keep(kept_as, flatbuffer)
    return Backbone(flatbuffer, described, side)


def _as_it_is(weights: str, described: str, side: int | None) -> Backbone:
    flatbuffer = _read(weights)
    try:
        own = BackboneRunner(flatbuffer).side
    except BundleError as error:
        raise ModelError(f"fit.weights: {resolve(weights)} cannot be used: {error}") from error
    if side not in (None, own):
        raise SettingsError(
            f"fit.side: {side} is given, and {resolve(weights)} was converted at {own} pixels; leave out --side, or "
            f"convert again with --side {side}"
        )
    return Backbone(flatbuffer, described, own)


def _identity(weights: str) -> str | None:
    """The weights by their content, as a text; None while Keras has not downloaded the weights yet."""
    if weights.startswith("random:"):
        return f"random:{_seed(weights)}"
    if weights != "imagenet":
        return hashlib.sha256(_read(weights)).hexdigest()
    keras_home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        with open(os.path.join(keras_home, "models", _IMAGENET), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def _convert_in_child(weights: str, side: int) -> bytes:
    try:
        # Spawned, because a fork of a process with threads, as PySpark has them, may hang.
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_isolate) as child:
            return child.submit(_convert, weights, side).result()
    except BrokenProcessPool as error:
        raise PlatformError(
            "TensorFlow crashed while it converted the backbone; it needs 1 GB of free memory and a CPU with AVX"
        ) from error


def describe_weights(weights: str) -> str:
    """The name by which `weights` is recorded, after all checks that need no TensorFlow.

    Raises:
        SettingsError: `weights` is none of those that `load_backbone` takes.
        ModelError: the file cannot be read.
    """
    if weights == "imagenet":
        return weights
    if weights.startswith("random:"):
        return f"random:{_seed(weights)}"
    if not weights.endswith((".h5", ".keras", converted.CONVERTED)):
        raise SettingsError(
            f"fit.weights: {weights!r} is not allowed: give imagenet, random:SEED, or the path of a Keras weights file "
            f"(.h5 or .keras) or of a converted backbone ({converted.CONVERTED})"
        )
    digest = hashlib.sha256(_read(weights)).hexdigest()
    return f"{os.path.basename(weights)} sha256:{digest[:12]}"


def _read(weights: str) -> bytes:
    path = resolve(weights)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ModelError(f"fit.weights: cannot read {path}: {error.strerror}") from error


def _seed(weights: str) -> int:
    match = re.fullmatch(r"random:(\d{1,10})", weights, re.ASCII)
    if not match or int(match[1]) > _MAX_SEED:
        raise SettingsError(f"fit.weights: {weights!r} is not allowed: SEED is a whole number from 0 to {_MAX_SEED}")
    return int(match[1])


def _isolate() -> None:
    """Make the child independent of the user's Keras configuration, of GPUs, of dead networks, and silent."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _convert(weights: str, side: int) -> bytes:
    try:
        import tensorflow as tf  # noqa: PLC0415 - 3 s, and only the child pays them
    except ImportError as error:
        raise PlatformError(f"TensorFlow cannot be imported ({error}); pip install 'picture-features[fit]'") from None
    flatbuffer: bytes = tf.lite.TFLiteConverter.from_keras_model(_build(weights, side)).convert()
    return flatbuffer


def _build(weights: str, side: int) -> keras.Model:
    import keras  # noqa: PLC0415 - as above

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    source: str | None = weights
    if weights.startswith("random:"):
        keras.utils.set_random_seed(_seed(weights))
        source = None
    elif weights != "imagenet":
        source = resolve(weights)
    try:
        model = _mobile_net(DEFAULT_SIDE, source)
    except Exception as error:  # noqa: BLE001 - urllib, h5py and Keras raise nearly everything
        cause = " ".join(str(error).rpartition(" -- ")[2].split())[:200]  # Keras: "URL fetch failure on ... -- cause"
        if weights == "imagenet":
            raise ModelError(
                f"fit.weights: imagenet is not in Keras's cache and cannot be downloaded ({cause}); point KERAS_HOME "
                "to a cache that has it, give the path of a weights file or, to try things out, --weights random:0"
            ) from None
        raise ModelError(f"fit.weights: {weights} does not fit MobileNetV2 without top: {cause}") from None
    if side == DEFAULT_SIDE:
        return model
    resized = _mobile_net(side, None)
    resized.set_weights(model.get_weights())
    return resized


def _mobile_net(side: int, weights: str | None) -> keras.Model:
    import keras  # noqa: PLC0415 - as above

    # Of `imagenet`, Keras has other weights for each side; only those of 224 are taken.
    return keras.applications.MobileNetV2(
        input_shape=(side, side, 3), include_top=False, pooling="avg", weights=weights
    )
