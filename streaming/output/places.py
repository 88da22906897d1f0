"""The places of a stream (input, models, output, checkpoint), checked to fit together, and their Spark properties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conf.aws.connection import AWS_DEFAULTS, S3Connection
from conf.errors import OutputError
from conf.settings import Settings
from conf.uris import resolve
from streaming.output.format_number import check_format
from streaming.output.manifests import is_log
from streaming.storage.folder import Folder, OnSkip, StoredPicture
from streaming.storage.locations import check_outside, check_readable_by_spark, is_on_s3, list_pictures, open_folder
from streaming.storage.names import ALL_NAMES, Names

_SPARK_PROPERTIES = {
    "spark.sql.streaming.pollingDelay": "100ms",
    "spark.scheduler.mode": "FAIR",
    # A kill in the first write of a checkpoint leaves a file there that nobody reads.
    "spark.sql.streaming.verifyCheckpointDirectoryEmptyOnStart": "false",
    # Spark's default asks `readlink` of each file that it renames: several processes for each micro-batch.
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
}


def open_output(settings: Settings, connection: S3Connection) -> Folder:
    """The output that a stream has begun on.

    Raises:
        OutputError: none has, or it is of another format.
    """
    assert settings.output is not None
    output = open_folder(settings.output, connection)
    check_format(output)
    check_begun(output)
    return output


def check_begun(output: Folder) -> None:
    """Refuse an output that no stream has begun on.

    Raises:
        OutputError: none has.
    """
    if not is_log(output):
        raise OutputError(f"{output.root}: no stream has written here yet; check --output")


@dataclass(frozen=True)
class Input:
    """The folder or prefix that pictures come from.

    Attributes:
        root: canonical path of the folder or prefix.
        connection: how it is reached if it is on S3.
        names: which files and objects are pictures.
    """

    root: str
    connection: S3Connection = AWS_DEFAULTS
    names: Names = ALL_NAMES

    def pictures(self, on_skip: OnSkip) -> Iterator[StoredPicture]:
        """The pictures that are there; `on_skip` is told of the rest."""
        return list_pictures(self.root, on_skip, self.connection, self.names)

    def takes(self, path: str) -> bool:
        """Whether a path inside is a picture by its name."""
        return self.names.takes(path.removeprefix(f"{self.root}/"))


@dataclass(frozen=True)
class StreamPlaces:
    """The places of a stream, checked.

    Attributes:
        input: where pictures come from.
        models: the registry.
        output: the tables and the records.
        checkpoint: a folder of this machine, for Spark.
        connection: how those on S3 are reached.
    """

    input: Input
    models: Folder
    output: Folder
    checkpoint: Folder
    connection: S3Connection

    def spark_properties(self) -> dict[str, str]:
        """The properties that Spark needs for these places."""
        if not is_on_s3(self.output.root):
            return _SPARK_PROPERTIES
        # Each look for a manifest is a paid request.
        return _SPARK_PROPERTIES | self.connection.spark_properties() | {"spark.sql.streaming.pollingDelay": "500ms"}

    @classmethod
    def of(cls, settings: Settings, checkpoint: str) -> StreamPlaces:
        """From settings whose input, models and output are there.

        Args:
            settings: of the program.
            checkpoint: the path of a folder of this machine.

        Raises:
            SettingsError: something of ours lies inside the input, where it would be taken for pictures, or the output
                has a name that Spark cannot read.
        """
        assert settings.input is not None
        assert settings.models is not None
        assert settings.output is not None
        connection = S3Connection.of(settings.s3)
        source, output = resolve(settings.input), open_folder(settings.output, connection)
        check_readable_by_spark(output.root)
        models = open_folder(settings.models, connection)
        temporary = is_on_s3(output.root) and not settings.checkpoint
        places = {"models": models.root, "output": output.root, "TMPDIR" if temporary else "checkpoint": checkpoint}
        check_outside(source, places)
        names = Names.of(settings.stream)
        return cls(Input(source, connection, names), models, output, open_folder(checkpoint), connection)
