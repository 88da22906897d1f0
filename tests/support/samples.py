"""Synthetic pictures of fruit, for the demo and the tests: a folder per class, and a few files that are broken.

    python -m tests.support.samples FOLDER [--pictures N] [--classes N] [--broken N] [--size PX] [--seed N] [--shots N]

The same arguments give the same bytes, and more pictures begin with the same ones. A picture is an ellipsoid, bent for
a banana, lit from a random side, with the skin of its kind, its shadow, and one of three backgrounds.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import ExifTags, Image

from batch_fit.held_back import is_held_back
from conf.plural import plural
from streaming.features.reasons import Reason
from streaming.storage.folder import identity_of

Plane = NDArray[np.floating]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the fruits of a class look; lengths are shares of half the picture's side.

    Attributes:
        skin: RGB of most of the fruit.
        blush: RGB of its other side, its stripes or its speckles.
        radius: half its length.
        slimness: its width over its length.
        bend: how far its ends are bent to one side.
        stripes: how many there are; 0 leaves a gradient from skin to blush.
        speckles: share of the skin that they cover.
        gloss: strength of the highlight.
    """

    skin: Colour
    blush: Colour
    radius: float = 0.7
    slimness: float = 0.95
    bend: float = 0.0
    stripes: int = 0
    speckles: float = 0.0
    gloss: float = 0.5


KINDS = {
    "Apple Red": Kind((190, 30, 35), (215, 160, 60), slimness=0.93, speckles=0.04, gloss=0.7),
    "Banana": Kind((235, 200, 60), (190, 170, 50), radius=0.85, slimness=0.32, bend=0.55, speckles=0.03, gloss=0.2),
    "Kiwi": Kind((115, 90, 50), (90, 70, 35), radius=0.6, slimness=0.8, speckles=0.4, gloss=0.05),
    "Lime": Kind((110, 165, 40), (160, 185, 60), radius=0.55, slimness=0.85, speckles=0.1, gloss=0.4),
    "Orange": Kind((240, 140, 20), (225, 110, 20), radius=0.72, slimness=0.98, speckles=0.15, gloss=0.3),
    "Plum": Kind((75, 40, 85), (140, 60, 95), radius=0.55, slimness=0.87, gloss=0.35),
    "Watermelon": Kind((60, 120, 50), (25, 65, 30), radius=0.88, slimness=0.85, stripes=6, gloss=0.3),
    "Cherry": Kind((130, 10, 30), (160, 20, 40), radius=0.42, slimness=0.97, gloss=1.0),
}

BACKGROUNDS: tuple[Colour, ...] = ((245, 245, 242), (150, 105, 70), (90, 110, 130))
"""A white sheet, a wooden table, a cloth."""

_OPENING = datetime(2026, 2, 3, 9, tzinfo=UTC)  # a Tuesday; EXIF has no time zone


@dataclass(frozen=True, slots=True)
class Samples:
    """What was written.

    Attributes:
        pictures: the files that are whole.
        broken: the other files, with the reason for which each belongs in quarantine.
    """

    pictures: list[Path]
    broken: dict[Path, Reason]


def held_back_names(picture: Path) -> Iterator[Path]:
    """Names beside a picture's, for pictures that a fit holds out."""
    names = (picture.with_name(f"again-{number}.jpg") for number in count())
    return (name for name in names if is_held_back(identity_of(str(name))))


def write_samples(
    folder: Path, pictures: int = 240, classes: int = 6, broken: int = 4, seed: int = 0, size: int = 100, shots: int = 1
) -> Samples:
    """Write JPEGs of size x size pixels to `folder/<class>/`, the classes in turn, and the broken files among them.

    With two `shots` or more, so many pictures in a row are of one fruit, a second apart, and their EXIF says so.
    """
    if not 1 <= classes <= len(KINDS):
        raise ValueError(f"classes: {classes} is not allowed: 1 to {len(KINDS)}")
    names = list(KINDS)[:classes]
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    samples = Samples([], {})
    for index in range(pictures):
        fruit, shot = divmod(index, shots)
        name = names[fruit % classes]
        path = folder / name / f"{index:06}.jpg"
        picture = Image.fromarray(draw(KINDS[name], np.random.default_rng([seed, fruit]), size))
        exif = _exif(_OPENING + timedelta(minutes=fruit, seconds=shot)) if shots > 1 else b""
        path.write_bytes(_encoded(picture, quality=90 - shot, exif=exif))
        samples.pictures.append(path)
    for index in range(broken):
        name = names[index % classes]
        path = folder / name / f"broken_{index:06}.jpg"
        whole = jpeg(KINDS[name], np.random.default_rng([seed, pictures, index]), size)
        content, reason = damaged(whole)[index % 4]
        path.write_bytes(content)
        samples.broken[path] = reason
    return samples


def damaged(whole: bytes) -> list[tuple[bytes, Reason]]:
    """Four ways in which a picture arrives broken, each with the reason that quarantine gives."""
    return [
        (whole[: len(whole) * 2 // 3], Reason.CORRUPT),
        (b"", Reason.EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\n", Reason.NOT_AN_IMAGE),
        (whole[:20], Reason.CORRUPT),
    ]


def jpeg(kind: Kind, random: Generator, size: int) -> bytes:
    """One picture of `kind`, size x size pixels."""
    return _encoded(Image.fromarray(draw(kind, random, size)), quality=90, exif=b"")


def _encoded(picture: Image.Image, quality: int, exif: bytes) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def _exif(captured: datetime) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Orchard", "Shelf 1"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"{captured:%Y:%m:%d %H:%M:%S}"
    return exif.tobytes()


def draw(kind: Kind, random: Generator, size: int) -> NDArray[np.uint8]:
    """One fruit of `kind` before a background: (size, size, 3) uint8."""
    grain = random.random((size, size), dtype=np.float32)
    across = np.linspace(-1, 1, size, dtype=np.float32)[np.newaxis, :]
    down = across.T
    canvas = _background(random, across, down, grain)

    radius, turn = kind.radius * random.uniform(0.85, 1.05), random.uniform(0, 2 * math.pi)
    x, y = (across - random.uniform(-0.1, 0.1)) / radius, (down - random.uniform(-0.1, 0.1)) / radius
    shadow = np.clip(_height(*_turned(kind, turn, x - 0.12, y - 0.18)), 0, 0.5)
    canvas *= 1 - shadow[..., np.newaxis]

    along, beside = _turned(kind, turn, x, y)
    height = _height(along, beside)
    lit = np.clip(random.uniform(-0.5, 0.5) * x + random.uniform(-0.7, -0.3) * y + 0.75 * height, 0, 1)
    highlight = kind.gloss * np.clip(1.05 * lit, 0, 1) ** 16
    fruit = _skin(kind, random, along, beside, grain) * (0.3 + 0.75 * lit[..., np.newaxis])
    fruit += 160 * highlight[..., np.newaxis]

    edge = np.clip(height * 5, 0, 1)[..., np.newaxis]
    canvas += edge * (fruit - canvas)
    canvas += 10 * (grain - 0.5)[..., np.newaxis]
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _turned(kind: Kind, turn: float, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Where each pixel lies along and beside the fruit; its outline is the unit circle in these coordinates."""
    along = math.cos(turn) * x + math.sin(turn) * y
    beside = math.cos(turn) * y - math.sin(turn) * x + kind.bend * (along**2 - 0.4)
    return along, beside / kind.slimness


def _height(along: Plane, beside: Plane) -> Plane:
    """How far the unit sphere rises towards the viewer; 0 outside."""
    height: Plane = np.sqrt(np.clip(1 - along**2 - beside**2, 0, 1))
    return height


def _background(random: Generator, across: Plane, down: Plane, grain: Plane) -> Plane:
    """A surface that grows darker to one side; wood and cloth have a grain: (size, size, 3)."""
    choice = int(random.integers(len(BACKGROUNDS)))
    tone = random.uniform(0.8, 0.95) + random.uniform(-0.12, 0.12) * across + random.uniform(-0.12, 0.12) * down
    if choice > 0:
        fibres = grain[: len(grain) // 4 + 1, :1].repeat(4, axis=0)[: len(grain)]
        tone += 0.15 * (fibres - 0.5)
    background: Plane = tone[..., np.newaxis] * np.array(BACKGROUNDS[choice], np.float32)
    return background


def _skin(kind: Kind, random: Generator, along: Plane, beside: Plane, grain: Plane) -> Plane:
    """The fruit's own colour, without light: (size, size, 3)."""
    share = np.clip(0.5 * along + random.uniform(-0.3, 0.5), 0, 1)
    if kind.stripes:
        share = np.where(np.abs(kind.stripes * beside % 2 - 1) + 0.4 * grain > 0.7, np.float32(1), np.float32(0))
    if kind.speckles:
        share = np.maximum(share, np.where(grain < kind.speckles, np.float32(0.6), np.float32(0)))
    skin, blush = (np.array(colour, np.float32) for colour in (kind.skin, kind.blush))
    ripe = skin * random.uniform(0.85, 1.1)
    colour: Plane = ripe + share[..., np.newaxis] * (blush - ripe)
    return colour


def main() -> None:
    """Write samples from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=240, metavar="N")
    parser.add_argument("--classes", type=int, default=6, choices=range(1, len(KINDS) + 1))
    parser.add_argument("--broken", type=int, default=4, metavar="N")
    parser.add_argument("--size", type=int, default=100, metavar="PX")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--shots", type=int, default=1, metavar="N", help="of each fruit; with EXIF if there are more")
    options = parser.parse_args()
    samples = write_samples(**vars(options))
    print(  # noqa: T201 - this is what the program says
        f"{plural(len(samples.pictures), 'picture')} and {plural(len(samples.broken), 'broken file')} "
        f"in {options.folder}"
    )


if __name__ == "__main__":
    main()
