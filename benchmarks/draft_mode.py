"""Measures the time that decoding a large JPEG at reduced scale saves, and how far it moves the features.

    python -m benchmarks.draft_mode BACKBONE.tflite [--pictures FOLDER]

It prints the table of docs/adr/0001-jpeg-draft.md. Shift is the relative L2 distance from the features of the picture
that was decoded in full; the last rows of each table give the same distance for changes that nobody would notice.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import DEFAULT_SIDE as SIDE
from streaming.features.imaging import Limits, decode

Array = NDArray[np.float32]
Decoder = Callable[[bytes], Array]

CAMERA = Path(__file__).resolve().parents[2] / "shared" / "data" / "camera"
REPEATS = 5


def scaled(data: bytes, draft: int | None = None, reducing_gap: float | None = None) -> Array:
    """Decode as `imaging.decode` does, with the draft mode and the two-step resize to be measured."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if draft:
        image.draft(None, (draft, draft))
    return _tensor(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=reducing_gap))


def saved_again(data: bytes, quality: int) -> Array:
    """The picture after one more JPEG compression, decoded in full."""
    return scaled(_jpeg(Image.open(io.BytesIO(data)), quality))


def cropped(data: bytes, share: float) -> Array:
    """The picture without this share of its width and height on each side, decoded in full."""
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    box = (share * width, share * height, (1 - share) * width, (1 - share) * height)
    return _tensor(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


def accepted(data: bytes) -> Array:
    """Decode as the application does."""
    return decode(data, Limits(max_bytes=2**30, max_pixels=2**30)).pixels


DECODERS: dict[str, Decoder] = {
    "in full": scaled,
    "in full, reducing_gap=3": partial(scaled, reducing_gap=3.0),
    "in full, reducing_gap=2": partial(scaled, reducing_gap=2.0),
    "draft to 3 x 224": partial(scaled, draft=3 * SIDE),
    "draft to 2 x 224": partial(scaled, draft=2 * SIDE),
    "draft to 2 x 224, reducing_gap=2": partial(scaled, draft=2 * SIDE, reducing_gap=2.0),
    "draft to 224": partial(scaled, draft=SIDE),
    "imaging.decode": accepted,
    "saved again at quality 95": partial(saved_again, quality=95),
    "saved again at quality 75": partial(saved_again, quality=75),
    "1 % cropped from each side": partial(cropped, share=0.01),
}


def frames(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    """The picture sets, by name. EXIF rotation is taken out, so that all decoders see the same picture."""
    pictures = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    sizes = [_pixels(picture) for picture in pictures]
    large = [_upright(picture) for picture, pixels in zip(pictures, sizes, strict=True) if pixels > 7e6]
    yield "8 to 12 MP", large
    yield "1080p", [_jpeg(ImageOps.fit(Image.open(io.BytesIO(picture)), (1920, 1080)), 90) for picture in large]
    yield "below 2 MP", [_upright(picture) for picture, pixels in zip(pictures, sizes, strict=True) if pixels < 2e6]


def measure(backbone: BackboneRunner, pictures: list[bytes]) -> Iterator[tuple[str, float, Array, Array]]:
    """For each decoder its name, mean ms per picture, relative L2 shift and cosine (one of each per picture)."""
    expected = np.stack([backbone.run(scaled(picture)) for picture in pictures])
    lengths = np.linalg.norm(expected, axis=1)
    for name, decoder in DECODERS.items():
        seconds = np.mean([_seconds(decoder, picture) for picture in pictures])
        features = np.stack([backbone.run(decoder(picture)) for picture in pictures])
        shift = np.linalg.norm(features - expected, axis=1) / lengths
        cosine = (features * expected).sum(axis=1) / (lengths * np.linalg.norm(features, axis=1))
        yield name, float(seconds * 1e3), shift, cosine


def _seconds(decoder: Decoder, picture: bytes) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        decoder(picture)
        best = min(best, time.perf_counter() - start)
    return best


def _tensor(image: Image.Image) -> Array:
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    pixels /= 127.5
    pixels -= 1.0
    return pixels


def _pixels(data: bytes) -> int:
    width, height = Image.open(io.BytesIO(data)).size
    return width * height


def _upright(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data))
    return data if image.getexif().get(0x0112, 1) == 1 else _jpeg(ImageOps.exif_transpose(image), 95)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main() -> None:
    """Measure all decoders on all sets, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=Path, help="a LiteRT flatbuffer of MobileNetV2, as in a model bundle")
    parser.add_argument("--pictures", type=Path, default=CAMERA, help="a folder of camera JPEGs (default: %(default)s)")
    options = parser.parse_args()
    backbone = BackboneRunner(options.backbone.read_bytes())
    for title, pictures in frames(options.pictures):
        print(f"\n| {title}, {len(pictures)} pictures | ms | shift, median | shift, worst | cosine, worst |")
        print("|---|---:|---:|---:|---:|")
        for name, milliseconds, shift, cosine in measure(backbone, pictures):
            print(
                f"| {name} | {milliseconds:.1f} | {np.median(shift):.1%} | {shift.max():.1%} | {cosine.min():.5f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
