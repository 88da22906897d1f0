"""Lists the models of a registry, and how many pictures of an output are in which of them."""

from __future__ import annotations

from collections import Counter

from conf.aws.connection import S3Connection
from conf.settings import Settings
from streaming.output.places import open_output
from streaming.output.tables import rows_by_model
from streaming.registry.bundle import BundleManifest
from streaming.registry.registry import Registry
from streaming.storage.locations import open_folder


def list_models(settings: Settings) -> str:
    """A table of all models, the current one marked; with a column of rows if there is an output.

    Raises:
        ModelError: the registry cannot be read.
        OutputError: the output cannot be read.
    """
    connection = S3Connection.of(settings.s3)
    registry = Registry(open_folder(settings.models or "", connection))
    counts = rows_by_model(open_output(settings, connection)) if settings.output else None
    versions, current = registry.versions(), registry.current_or_none()
    rows = [_row(manifest, current) for manifest in versions]
    if counts:
        deleted = sorted(counts.keys() - {manifest.version for manifest in versions})
        rows += [("", version, "", "", "", "not in this registry") for version in deleted]
    if not rows:
        return "no models yet"
    rows = [("", "version", "k", "variance", "pictures", "weights"), *rows]
    return _aligned(rows if counts is None else _with_counts(rows, counts))


def _row(manifest: BundleManifest, current: str | None) -> tuple[str, ...]:
    return (
        "*" if manifest.version == current else "",
        manifest.version,
        str(manifest.k),
        f"{manifest.variance_kept:.1%}",
        f"{manifest.pictures:,}",
        manifest.weights,
    )


def _with_counts(rows: list[tuple[str, ...]], counts: Counter[str]) -> list[tuple[str, ...]]:
    head, *models = rows
    return [(*head[:5], "in output", head[5]), *((*row[:5], f"{counts[row[1]]:,}", row[5]) for row in models)]


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
