"""Puts rows of the table of features into one model, from the embeddings of their pictures.

A row that cannot be put there stays as it is: `compaction` knows it by its model_version, and leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streaming.features.backbone import backbone_id
from streaming.features.classifier import Classifier
from streaming.features.projection import Projection
from streaming.features.schema import FEATURE_COUNT, FEATURES
from streaming.registry.bundle import BACKBONE, Bundle

COLUMNS = ("path", "embedding", "backbone")
"""Of `schema.EMBEDDINGS`: what a row is put into a model by."""


@dataclass(frozen=True)
class SnapshotModel:
    """The model of all rows of a snapshot; a value that is sent to the workers.

    Attributes:
        version: of the model.
        backbone: its `backbone.backbone_id`.
        projection: its scaler and PCA.
        classifier: of its components, if it has one.
    """

    version: str
    backbone: str
    projection: Projection = field(repr=False)
    classifier: Classifier | None = field(repr=False)

    @classmethod
    def of(cls, bundle: Bundle) -> SnapshotModel:
        """The model of a bundle."""
        return cls(bundle.version, backbone_id(bundle.file(BACKBONE)), bundle.projection(), bundle.classifier())

    def is_of_all(self, rows: pa.Table) -> bool:
        """Whether all rows are of this model already."""
        return bool(pc.all(pc.equal(rows.column("model_version"), self.version), min_count=0).as_py())

    def apply(self, rows: pa.Table, embeddings: pa.Table) -> pa.Table:
        """The rows, `schema.FEATURES`, those of other models put into this one where `embeddings` allow it.

        Args:
            rows: of one file.
            embeddings: with `COLUMNS`, in any order; those of other pictures and other backbones are passed over.

        Returns:
            All the rows, in another order.
        """
        found = pc.index_in(rows.column("path"), value_set=embeddings.column("path"))
        usable = pc.equal(pc.take(embeddings.column("backbone"), found), self.backbone)
        changing = pc.and_(pc.not_equal(rows.column("model_version"), self.version), pc.fill_null(usable, False))
        values = np.asarray(embeddings.column("embedding").combine_chunks().flatten()).reshape(-1, FEATURE_COUNT)
        chosen = (values[place] for place in found.filter(changing).to_pylist())
        return pa.concat_tables([rows.filter(pc.invert(changing)), self._project(rows.filter(changing), chosen)])

    def _project(self, rows: pa.Table, embeddings: Iterable[NDArray[np.float32]]) -> pa.Table:
        """The rows in this model, given the embedding of each."""
        projected = [self.projection.apply(embedding) for embedding in embeddings]
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(self.projection.k)
        features = np.concatenate([np.empty(0, np.float32), *(features for features, _ in projected)])
        classifier = self.classifier
        labels = [classifier.apply(features) if classifier else (None, None) for features, _ in projected]
        columns = {
            "features": pa.ListArray.from_arrays(offsets, features, type=FEATURES.field("features").type),
            "reconstruction_error": pa.array([error for _, error in projected], pa.float32()),
            "model_version": pa.array([self.version] * len(rows), pa.string()),
            "predicted_label": pa.array([label for label, _ in labels], pa.string()),
            "confidence": pa.array([confidence for _, confidence in labels], pa.float32()),
        }
        for name, column in columns.items():
            rows = rows.set_column(FEATURES.get_field_index(name), FEATURES.field(name), column)
        return rows
