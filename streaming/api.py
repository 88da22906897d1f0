"""The door for Python: a model and a table in a program or notebook of your own, without Spark.

::

    from streaming.api import load_model, read_table

    table = read_table("table")
    model = load_model("models", table.model)
    picture = model.featurize("IMG_1.jpg")
    print(picture.predicted_label, picture.confidence, table.nearest(picture, 5))

Locations are local paths or URIs like `s3a://BUCKET/PREFIX`. What else is set, such as the endpoint of a store or the
limits of the decoder, comes from the environment variables of the programs, and from the file of their `--config`, if
one is given. Errors are those of `conf.errors`, whose messages are for people.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from conf.aws.connection import S3Connection
from conf.errors import AppError, InputError, ModelError, OutputError, SettingsError, StorageError
from conf.loading import load_settings
from conf.plural import plural
from streaming.registry.model import Featurized, Model
from streaming.registry.registry import Registry
from streaming.search.matrix import Matrix, Near, read_matrix
from streaming.search.table import open_table
from streaming.storage.locations import open_folder

__all__ = [
    "AppError",
    "Featurized",
    "InputError",
    "Matrix",
    "Model",
    "ModelError",
    "Near",
    "OutputError",
    "SettingsError",
    "StorageError",
    "load_model",
    "read_table",
]


Location = str | os.PathLike[str]


def load_model(registry: Location, version: str | None = None, *, config: Location | None = None) -> Model:
    """A model of a registry, whose files are checked.

    Args:
        registry: URI or path of the registry: what a fit has as `--models`.
        version: of the model; None for the current one.
        config: path of a YAML file of settings.

    Raises:
        ModelError: the registry has no current model or no such version, or a file of it was changed.
        SettingsError: a setting is wrong.
        StorageError: the store refuses, or fails at the moment.
    """
    settings = load_settings({}, Path(config) if config else None)
    models = Registry(open_folder(os.fspath(registry), S3Connection.of(settings.s3)))
    return Model(models.open(version or models.current()), settings)


def read_table(table: Location, model: str | None = None, *, config: Location | None = None) -> Matrix:
    """The features of a table as a matrix, (n, k) float32, with the paths of its rows.

    Each model has axes of its own, so the rows of one are read. Where there are rows of several, those of others are
    counted and left out, with a warning unless `model` is given. Pictures that were forgotten are left out, too.

    All rows are in memory: n x k x 4 bytes, and twice that while they are read.

    Args:
        table: URI or path of an output, of a folder of exports, whose latest is read, or of a snapshot in one.
        model: the version of the model; None for that of the latest rows.
        config: path of a YAML file of settings.

    Raises:
        OutputError: there is no such table, it has no rows, or a file of it is damaged.
        SettingsError: it has no rows of this model, or its files are CSV; a setting is wrong.
        StorageError: the store refuses, or fails at the moment.
    """
    settings = load_settings({}, Path(config) if config else None)
    rows = read_matrix(open_table(settings, os.fspath(table), S3Connection.of(settings.s3)), model)
    if rows.left_out and model is None:
        said = f"left out: {plural(rows.left_out, 'row')} of other models, as features of two models cannot be compared"
        warnings.warn(f"{said}; an export has all rows in one, and model=VERSION reads those of another", stacklevel=2)
    return rows
