"""Chooses the model of a snapshot."""

from __future__ import annotations

from conf.aws.connection import S3Connection
from conf.errors import SettingsError
from conf.settings import Settings
from streaming.export.reprojection import SnapshotModel
from streaming.output.embeddings import has_embeddings
from streaming.output.lineage import derivatives
from streaming.output.tables import Tables
from streaming.registry.bundle import MANIFEST
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder

AS_INGESTED = "as-ingested"
_CURRENT = "current"


def choose_model(settings: Settings, output: Folder, connection: S3Connection) -> SnapshotModel | None:
    """The model that the settings ask for; None leaves each row in its own.

    Raises:
        SettingsError: it is not known which registry has the model.
        ModelError: there is no such model, or it was changed.
    """
    wanted = settings.export.model
    if wanted == AS_INGESTED or (wanted is None and not has_embeddings(output)):
        return None
    models = open_folder(settings.models, connection) if settings.models else _recorded(output, connection)
    registry = Registry(models)
    return SnapshotModel.of(registry.open(registry.current() if wanted in (None, _CURRENT) else wanted))


def _recorded(output: Folder, connection: S3Connection) -> Folder:
    """The registry of the stream: of those that an output records, the one that has the model of its latest rows.

    A fit on its embeddings records its registry, too, which may be another.
    """
    uris = [one.uri for one in derivatives(output) if one.kind == "models"]
    registries = [open_folder(uri, connection) for uri in uris]
    if len(registries) > 1:
        latest = Tables(output).latest_model()
        registries = [one for one in registries if one.exists(f"{latest}/{MANIFEST}")]
    if len(registries) == 1:
        return registries[0]
    used = f"has used models of {', '.join(uris)}" if uris else "does not say whose models it has used"
    raise SettingsError(f"models: {output.root} {used}; give --models URI, or --model {AS_INGESTED}")
