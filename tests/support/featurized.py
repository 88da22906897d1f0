"""A table of real pictures: found, featurized and committed as the stream does it, without Spark."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from conf.loading import load_settings
from streaming.features.backbone import backbone_id
from streaming.features.featurizer import Featurizer
from streaming.features.schema import PICTURES, as_table
from streaming.output.batch_report import BatchReport
from streaming.output.lineage import Derivative, record
from streaming.output.manifests import append_manifest, prepare_log
from streaming.output.tables import Result, Tables
from streaming.registry.bundle import BACKBONE
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import list_pictures, open_folder


def featurize_into(output: Folder, models: Path, source: Path) -> str:
    """Add the pictures below a folder to an output, with the current model of a registry; the version of the model."""
    registry = open_folder(str(models))
    version = Registry(registry).current()
    bundle = Registry(registry).open(version)
    prepare_log(output)
    record(output, Derivative("models", registry.root))
    listed, now = list(list_pictures(str(source), print)), datetime.now(UTC)
    manifest = append_manifest(output, listed, now)
    featurizer = Featurizer(bundle.recipe(load_settings({})))
    batches = as_table(listed).cast(PICTURES).combine_chunks().to_batches()
    outcomes = pa.Table.from_batches([featurizer(batch) for batch in batches])
    report = BatchReport(manifest, len(listed), Counter(), 0, 0, version, None)
    assert Tables(output).commit(manifest, Result(outcomes, backbone_id(bundle.file(BACKBONE)), now, report))
    return version
