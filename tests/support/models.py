"""Models with random projections, made in a moment and without Spark, for tests and benchmarks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from streaming.features.projection import Projection
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder


def random_projection(k: int, seed: int) -> Projection:
    """`k` orthonormal components of 1280 features, drawn at random."""
    components, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(1280, k)))
    return Projection(np.zeros(1280), np.ones(1280), components, np.full(1280, 1 / 1280))


def promote_model(
    folder: Path,
    backbone: bytes,
    k: int,
    seed: int,
    held_back: bundle.HeldBackFigures | None = None,
    side: int = 224,
) -> str:
    """Put a model into a registry, make it the current one, and return its version."""
    models = open_folder(str(folder))
    version = add_model(models, datetime.now(UTC), backbone, random_projection(k, seed), held_back=held_back, side=side)
    Registry(models).promote(version)
    return version


def add_model(models: Folder, now: datetime, backbone: bytes, projection: Projection, **more: Any) -> str:
    """Put a model that was made `now` into a registry, with `more` in its manifest, and return its version."""
    version = bundle.new_version(now, backbone, projection)
    models.create(f"{version}/{bundle.BACKBONE}", backbone)
    models.create(f"{version}/{bundle.PROJECTION}", projection.to_bytes())
    manifest = bundle.BundleManifest(
        version=version,
        created_at=now,
        weights="random:0",
        k=projection.k,
        variance_kept=projection.k / 1280,
        pictures=100,
        quarantined=0,
        input="/nowhere",
        limit=None,
        from_version=None,
        files=bundle.hash_files(models, version),
        **more,
    )
    bundle.seal(models, version, manifest)
    return version
