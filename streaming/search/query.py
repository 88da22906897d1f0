"""The picture that a search is for: a row of the table, or any other picture, featurized as the rows were."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conf.aws.connection import S3Connection
from conf.errors import InputError, OutputError
from conf.settings import Settings
from streaming.features.featurizer import Featurizer
from streaming.features.schema import PICTURES, as_table
from streaming.search.scan import rows_of
from streaming.search.table import SearchTable, latest_model
from streaming.storage.locations import look_up, resolve_key


@dataclass(frozen=True, eq=False)
class Query:
    """A picture to search for.

    Attributes:
        path: its raw key.
        model: the version of the model of its features.
        features: (k,) float32.
        in_table: whether they are those of a row.
    """

    path: str
    model: str
    features: NDArray[np.float32]
    in_table: bool


def make_query(
    settings: Settings, table: SearchTable, picture: str, model: str | None, connection: S3Connection
) -> Query:
    """The query for a picture, by the features of its row, if it has one of the model that is wanted.

    Args:
        settings: say how pictures are decoded, and which registry has the models.
        table: that is searched.
        picture: URI of the picture, or the `path` of a row.
        model: that is wanted; None for that of the row, or else that of the latest rows.
        connection: to S3.

    Raises:
        InputError: the picture is forgotten, is not there, or cannot be used.
        OutputError: the table has no rows.
        ModelError, SettingsError: the model cannot be used, or is not found.
    """
    path = resolve_key(picture)
    if table.denylist().is_forgotten(path):
        raise InputError(f"{path} was forgotten: it is on the denylist of {table.output.root}, and is not looked up")
    for row in rows_of(table, path, ("path", "model_version", "features")):
        version = str(row["model_version"])
        if model in (None, version):
            return Query(path, version, np.array(row["features"], np.float32), in_table=True)
    version = model or latest_model(table) or ""
    if not version:
        raise OutputError(f"{table.path} has no rows yet; run or replay a stream first")
    return Query(path, version, _featurize(settings, table, path, version, connection), in_table=False)


def _featurize(
    settings: Settings, table: SearchTable, path: str, version: str, connection: S3Connection
) -> NDArray[np.float32]:
    """The features of a picture by a model, the same bits as those of a row."""
    found = look_up(path, connection)
    if found is None:
        raise InputError(f"{path}: {table.path} has no such row, and there is no such picture that can be read")
    recipe = table.bundle(version, settings.models, connection).recipe(settings)
    # Without a deadline, by which a worker ends its process: here a person waits, who can press Ctrl-C.
    featurizer = Featurizer(replace(recipe, connection=connection, timeout=0.0, source=None))
    [picture] = as_table([found]).cast(PICTURES).combine_chunks().to_batches()
    [outcome] = featurizer(picture).to_pylist()
    if outcome["reason"]:
        raise InputError(f"{path} cannot be used: {outcome['reason']}: {outcome['detail']}")
    return np.array(outcome["features"], np.float32)
