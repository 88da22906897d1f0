"""The picture that a search is for: a row of the table, or any other picture, featurized as the rows were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf.aws.connection import S3Connection
from conf.errors import InputError
from conf.settings import Settings
from streaming.registry.model import Model
from streaming.search.scan import rows_of
from streaming.search.table import SearchTable, choose_model
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
    rows = rows_of(table, path, ("path", "model_version", "features"))
    for row in rows:
        version = str(row["model_version"])
        if model in (None, version):
            return Query(path, version, np.array(row["features"], np.float32), in_table=True)
    version = choose_model(table, model)
    if look_up(path, connection) is None:
        found = (
            f"its row is of model {rows[0]['model_version']}, not {model},"
            if rows
            else f"{table.path} has no such row,"
        )
        raise InputError(f"{path}: {found} and there is no such picture that can be read")
    by = Model(table.bundle(version, settings.models, connection), settings)
    return Query(path, version, by.featurize(path).features, in_table=False)
