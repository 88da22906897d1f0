"""Where rows of an output's pictures are: what the output records, and what the registries record in turn.

It owns the list of places; it must not know what is done there.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.s3 import S3Connection
from conf.settings import Settings
from streaming import derivatives, known, manifests, requests
from streaming.derivatives import Kind
from streaming.erasure import File
from streaming.features.registry import Registry
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from streaming.places import open_output
from streaming.rows import has_rows
from streaming.sink import FEATURES_TABLE, QUARANTINE_TABLE

_TABLES = {FEATURES_TABLE: "features", QUARANTINE_TABLE: "quarantine", known.FOLDER: "the record of known pictures"}
MANIFESTS, REQUESTS, _SAVED = "manifests", "requests", "saved features"


@dataclass(frozen=True)
class Places:
    """Where to look.

    Attributes:
        output: the stream's.
        connection: to S3.
    """

    output: Folder
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """From settings whose output is there.

        Raises:
            OutputError: it is none.
        """
        connection = S3Connection.of(settings.s3)
        return cls(open_output(settings, connection), connection)

    def registries(self) -> list[Folder]:
        """That the stream has used until now."""
        return self._recorded("models")

    def exports(self) -> list[Folder]:
        """Folders of snapshots that were begun until now."""
        return self._recorded("export")

    def _recorded(self, kind: Kind) -> list[Folder]:
        made = derivatives.derivatives(self.output)
        return [open_folder(one.uri, self.connection) for one in made if one.kind == kind]

    def files(self) -> list[File]:
        """All files with rows, but for exports."""
        root = self.output.root
        folders = {**_TABLES, manifests.FOLDER: MANIFESTS, requests.FOLDER: REQUESTS}
        files = [
            File(place, root, name)
            for folder, place in folders.items()
            for name in self.output.names(folder)
            if has_rows(name)
        ]
        for saved in self._saved():
            folder = open_folder(saved, self.connection)
            files += [File(_SAVED, folder.root, name) for name in folder.names("") if has_rows(name)]
        return files

    def _saved(self) -> list[str]:
        manifests_of_models = (manifest for models in self.registries() for manifest in Registry(models).versions())
        return sorted({one.saved_features for one in manifests_of_models if one.saved_features})
