"""Lists the places with rows of an output's pictures: those the output records, and those its registries record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conf.aws.connection import S3Connection
from conf.settings import Settings
from streaming.forget.files import File
from streaming.output import known, lineage, manifests, requests
from streaming.output.decision import FEATURES_TABLE, QUARANTINE_TABLE
from streaming.output.embeddings import EMBEDDINGS_TABLE, STAGED_FOLDER
from streaming.output.lineage import Kind
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
        made = (open_folder(one.uri, self.connection) for one in lineage.derivatives(self.output) if one.kind == kind)
        return [folder for folder in made if is_there(folder)]

    def missing(self) -> dict[str, str]:
        """The recorded places that cannot be looked into here, by canonical path, each with what to do, for people."""
        missing = {
            made.uri: f"{made.uri} is not there, or empty: mount its disk, or run forget where it is; if it was "
            f"deleted, or never made, delete {lineage.path_of(self.output, made)}"
            for made in lineage.derivatives(self.output)
            if not is_there(open_folder(made.uri, self.connection))
        }
        for saved in self._recorded_saved():
            if not may_be_deleted(saved):
                missing[saved] = (
                    f"{saved}: {os.path.dirname(saved)} is not there, or empty: mount its disk, or run forget where it "
                    "and its registry are; if it was deleted, make it, without files"
                )
        return missing

    def files(self, saved: Sequence[str]) -> list[File]:
        """All files with rows, except those of exports; of saved features those in the folders `saved`."""
        root = self.output.root
        folders = {**_TABLES, manifests.LOG_FOLDER: MANIFESTS, requests.REQUESTS_FOLDER: REQUESTS}
        files = [
            File(place, root, name)
            for folder, place in folders.items()
            for name in self.output.names(folder)
            if has_rows(name)
        ]
        for features in saved:
            folder = open_folder(features, self.connection)
            files += [File(_SAVED, folder.root, name) for name in folder.names("") if has_rows(name)]
        return files

    def saved(self) -> list[str]:
        """Canonical paths of features that fits have saved, except those that are `missing`; some may be deleted."""
        return [saved for saved in self._recorded_saved() if may_be_deleted(saved)]

    def _recorded_saved(self) -> list[str]:
        return sorted({saved for models in self.registries() for saved in saved_by(models)})


def saved_by(models: Folder) -> Iterator[str]:
    """Canonical paths of the features that fits of a registry's models have saved."""
    return (one.saved_features for one in Registry(models).versions() if one.saved_features)
