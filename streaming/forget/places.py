"""Lists the places with rows of an output's pictures: those the output records, and those its registries record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from conf.aws.connection import S3Connection
from conf.errors import BundleError, StorageError, TransientError
from conf.settings import Settings
from streaming.forget.files import File
from streaming.output import known, lineage, manifests, requests
from streaming.output.decision import FEATURES_TABLE, QUARANTINE_TABLE
from streaming.output.embeddings import EMBEDDINGS_TABLE, STAGED_FOLDER
from streaming.output.lineage import Derivative, Kind
from streaming.output.places import open_output
from streaming.output.rows import has_rows
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import is_there, may_be_deleted, open_folder

_TABLES = {
    FEATURES_TABLE: "features",
    QUARANTINE_TABLE: "quarantine",
    EMBEDDINGS_TABLE: EMBEDDINGS_TABLE,
    STAGED_FOLDER: EMBEDDINGS_TABLE,
    known.KNOWN_FOLDER: "the record of known pictures",
}
MANIFESTS, REQUESTS, _SAVED = "manifests", "requests", "saved features"


@dataclass(frozen=True)
class ErasurePlaces:
    """The places to erase pictures from."""

    output: Folder
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> ErasurePlaces:
        """The places of the output in the settings.

        Raises:
            OutputError: the output is not an output.
        """
        connection = S3Connection.of(settings.s3)
        return cls(open_output(settings, connection), connection)

    def registries(self) -> list[Folder]:
        """The registries that the stream has used until now, except those that are `missing`."""
        return self._recorded("models")

    def exports(self) -> list[Folder]:
        """The folders of snapshots that exports have recorded until now, except those that are `missing`."""
        return self._recorded("export")

    def _recorded(self, kind: Kind) -> list[Folder]:
        recorded = (one for one in lineage.derivatives(self.output) if one.kind == kind)
        return [open_folder(one.uri, self.connection) for one in recorded if self._why_not(one) is None]

    def _why_not(self, made: Derivative) -> str | None:
        """The reason why a recorded place cannot be looked into here, and what to do; None if it can."""
        try:
            if is_there(open_folder(made.uri, self.connection)):
                return None
        except TransientError:
            raise
        except StorageError as error:
            return self.refused(made, error)
        return (
            f"{made.uri} is not there, or empty: mount its disk, or run forget where it is; if it was deleted, or "
            f"never made, delete {lineage.path_of(self.output, made)}"
        )

    def refused(self, made: Derivative, error: Exception) -> str:
        """The failure of a recorded place, and what to do, for people."""
        recorded = lineage.path_of(self.output, made)
        return f"{made.uri} cannot be looked into: {error}; if it is gone for good, delete {recorded}"

    def missing(self) -> dict[str, str]:
        """The recorded places that cannot be looked into here, by canonical path, each with what to do, for people."""
        found = ((made.uri, self._why_not(made)) for made in lineage.derivatives(self.output))
        missing = {uri: why for uri, why in found if why is not None}
        for saved in self._recorded_saved():
            if not may_be_deleted(saved):
                missing[saved] = (
                    f"{saved}: {os.path.dirname(saved)} is not there, or empty: mount its disk, or run forget where it "
                    "and its registry are; if it was deleted, make it, without files"
                )
        return missing

    def files(self) -> list[File]:
        """The output's own files with rows."""
        root = self.output.root
        folders = {**_TABLES, manifests.LOG_FOLDER: MANIFESTS, requests.REQUESTS_FOLDER: REQUESTS}
        return [
            File(place, root, name)
            for folder, place in folders.items()
            for name in self.output.names(folder)
            if has_rows(name)
        ]

    def saved_files(self, saved: Iterable[str]) -> list[File]:
        """The files with rows of features that fits have saved in these folders."""
        folders = [open_folder(features, self.connection) for features in saved]
        return [File(_SAVED, folder.root, name) for folder in folders for name in folder.names("") if has_rows(name)]

    def saved(self) -> list[str]:
        """Canonical paths of features that fits have saved, except those that are `missing`; some may be deleted."""
        return [saved for saved in self._recorded_saved() if may_be_deleted(saved)]

    def _recorded_saved(self) -> list[str]:
        saved: set[str] = set()
        for models in self.registries():
            with suppress(BundleError):  # a changed manifest, which is met again where the models are looked into
                saved.update(saved_by(models))
        return sorted(saved)


def saved_by(models: Folder) -> Iterator[str]:
    """Canonical paths of the features that fits of a registry's models have saved."""
    return (one.saved_features for one in Registry(models).versions() if one.saved_features)
