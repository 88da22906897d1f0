"""Where input, models, output and checkpoint of a stream are.

It owns that they fit together, and what Spark has to be told of them; it must not know what is done there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conf.errors import OutputError
from conf.s3 import CHECKPOINT_PROPERTIES, S3Connection
from conf.settings import Settings
from streaming.features.storage import check_outside, is_on_s3, list_pictures, open_folder, resolve
from streaming.features.stored import Folder, OnSkip, StoredPicture
from streaming.manifests import is_log


def open_output(settings: Settings, connection: S3Connection) -> Folder:
    """The output that a stream has begun on.

    Raises:
        OutputError: none has.
    """
    assert settings.output is not None
    output = open_folder(settings.output, connection)
    if not is_log(output):
        raise OutputError(f"{output.root}: no stream has written here yet; check --output")
    return output


@dataclass(frozen=True)
class Places:
    """Where everything is, checked."""

    source: str
    models: Folder
    output: Folder
    checkpoint: Folder
    connection: S3Connection

    def list_input(self, on_skip: OnSkip) -> Iterator[StoredPicture]:
        """The pictures that are there."""
        return list_pictures(self.source, on_skip, self.connection)

    def spark_properties(self) -> dict[str, str]:
        """What Spark needs for these places."""
        properties = {
            "spark.sql.streaming.pollingDelay": "100ms",
            "spark.scheduler.mode": "FAIR",
            # A kill in the first write of a checkpoint leaves a file there that nobody reads.
            "spark.sql.streaming.verifyCheckpointDirectoryEmptyOnStart": "false",
        }
        if any(is_on_s3(place.root) for place in (self.output, self.checkpoint)):
            properties |= self.connection.spark_properties()
            properties["spark.sql.streaming.pollingDelay"] = "500ms"  # each look for a manifest is a paid request
        if is_on_s3(self.checkpoint.root):
            properties |= CHECKPOINT_PROPERTIES
        return properties

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """From settings whose input, models and output are there.

        Raises:
            SettingsError: something of ours lies inside the input, where it would be taken for pictures.
        """
        assert settings.input is not None
        assert settings.models is not None
        assert settings.output is not None
        connection = S3Connection.of(settings.s3)
        source, output = resolve(settings.input), open_folder(settings.output, connection)
        models = open_folder(settings.models, connection)
        checkpoint = open_folder(settings.checkpoint or output.path("_checkpoint"), connection)
        check_outside(source, {"models": models.root, "output": output.root, "checkpoint": checkpoint.root})
        return cls(source, models, output, checkpoint, connection)
