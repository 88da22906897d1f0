"""A model in this process, for one picture at a time: the same code and the same bits as the stream's."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.aws.connection import S3Connection
from conf.errors import InputError
from conf.plural import plural
from conf.settings import Settings
from streaming.features.featurizer import Featurizer
from streaming.features.schema import PICTURES, as_table
from streaming.registry.bundle import Bundle
from streaming.storage.locations import look_up, resolve_key


@dataclass(frozen=True, eq=False)
class Featurized:
    """A picture by a model, with the values of its row in the tables.

    Attributes:
        model: the version of the model.
        features: (k,) float32, the PCA components.
        embedding: (1280,) float32, from the backbone.
        reconstruction_error: squared distance to what the k components can express, in units of the scaled features.
        predicted_label: of the classifier; None if the model has none.
        confidence: of the label, from 0 to 1; None if the model has no classifier.
        width, height: in pixels, as displayed.
        sha256: of its bytes, in hex.
        captured_at, camera: of its EXIF; None where it does not say.
    """

    model: str
    features: NDArray[np.float32]
    embedding: NDArray[np.float32]
    reconstruction_error: float
    predicted_label: str | None
    confidence: float | None
    width: int
    height: int
    sha256: str
    captured_at: str | None
    camera: str | None


_OF_THE_OUTCOME = [field.name for field in fields(Featurized) if field.name not in ("model", "features", "embedding")]


class Model:
    """A model of a registry, loaded into this process: 80 MB, and some 15 ms for a small picture. Not thread-safe.

    A file that crashes its decoder ends this process. The stream has child processes for that; here, take pictures that
    you would open in a viewer.

    Attributes:
        version: of the model.
        k: the number of components.
        labels: those that its classifier knows; empty if it has none.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._connection = S3Connection.of(settings.s3)
        recipe = bundle.recipe(settings)
        self.version = bundle.version
        self.k = bundle.manifest.k
        self.labels: tuple[str, ...] = recipe.classifier.labels if recipe.classifier else ()
        # Without a deadline, by which a worker ends its process: here a person waits, who can press Ctrl-C.
        self._featurizer = Featurizer(
            replace(recipe, connection=self._connection, timeout=0.0, source=None, keeps_embeddings=True)
        )

    def __repr__(self) -> str:
        return f"<Model {self.version}: {plural(self.k, 'component')}, {plural(len(self.labels), 'label')}>"

    def featurize(self, picture: str | os.PathLike[str] | bytes) -> Featurized:
        """The features of a picture, the same bits as in the table of a stream with this model.

        Args:
            picture: a local path, a URI like `s3a://BUCKET/KEY`, or the bytes of a file.

        Raises:
            InputError: there is no such picture, or it cannot be used; the message has the reason that quarantine
                would give.
            StorageError: the store cannot be read.
        """
        named = "the picture" if isinstance(picture, bytes) else resolve_key(os.fspath(picture))
        outcome = self._featurizer.of_bytes(picture) if isinstance(picture, bytes) else self._of_path(named)
        [row] = outcome.to_pylist()
        if row["reason"]:
            raise InputError(f"{named} cannot be used: {row['reason']}: {row['detail']}")
        return Featurized(
            model=self.version,
            features=np.array(row["features"], np.float32),
            embedding=np.frombuffer(row["embedding"], np.float32),
            **{name: row[name] for name in _OF_THE_OUTCOME},
        )

    def _of_path(self, path: str) -> pa.RecordBatch:
        found = look_up(path, self._connection)
        if found is None:
            raise InputError(f"{path}: there is no such picture that can be read")
        [picture] = as_table([found]).cast(PICTURES).combine_chunks().to_batches()
        return self._featurizer(picture)
