"""The application on EMR: the files that package builds, and where they and the data are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

from botocore.exceptions import ClientError

from conf.emr.package import CODE, DEPENDENCIES, Platform
from conf.emr.spark_submit import CONFIG, CONVERTED_BACKBONE, LAUNCHER, LOG4J, Locations
from conf.emr.stack import Stack
from conf.errors import NotFoundError, SettingsError
from conf.failures import code_of
from conf.loading import load_settings
from conf.settings import Settings

PLATFORMS: tuple[Platform, ...] = get_args(Platform)
SETTINGS = Path(__file__).parents[1] / "emr.yaml"
"""The settings of the programs on the cluster, where nothing else is named."""
_BUILT = (CODE, DEPENDENCIES)
_HERE = Path(__file__).parent
_ABSENT = ("404", "NoSuchKey", "NoSuchBucket")


def build_folder(platform: str) -> Path:
    """The folder of what package builds for a platform."""
    return Path("build", "emr", platform)


def is_built(folder: Path) -> bool:
    """Whether a folder has a package."""
    return all((folder / name).is_file() for name in _BUILT)


def check_built(folder: Path) -> None:
    """Refuse a folder without a package.

    Raises:
        SettingsError: saying how to get one.
    """
    for name in _BUILT:
        if not (folder / name).is_file():
            raise SettingsError(
                f"{folder / name} is missing; python -m conf.emr package --platform {folder.name} builds it"
            )


@dataclass(frozen=True)
class EmrSettings:
    """The settings of the programs on EMR.

    Attributes:
        settings: what they say.
        content: of their file.
        source: the path or the URI of that.
        stays: whether they were uploaded before, and stay.
    """

    settings: Settings
    content: bytes
    source: str
    stays: bool

    @classmethod
    def choose(cls, stack: Stack, given: Path | None, folders: Sequence[str]) -> EmrSettings:
        """Those in a file that is given, or else those that were uploaded last, or else conf/emr.yaml.

        Args:
            stack: has the account.
            given: a file.
            folders: the URIs of applications, that which is to have them first.

        Raises:
            SettingsError: they are not for a cluster.
        """
        for folder in folders if given is None else ():
            if (content := _read(stack, folder)) is not None:
                where = f"{folder}/{CONFIG}"
                return cls(_loaded(content, where), content, where, stays=folder == folders[0])
        file = given or SETTINGS
        return cls(on_cluster(file), file.read_bytes(), str(file), stays=False)

    def upload(self, stack: Stack, uri: str) -> None:
        """Make these the settings of whatever is started from now on, by a schedule as well, unless they are."""
        if not self.stays:
            bucket, key = bucket_and_key(uri, CONFIG)
            stack.client("s3").put_object(Bucket=bucket, Key=key, Body=self.content)


def _read(stack: Stack, folder: str) -> bytes | None:
    bucket, key = bucket_and_key(folder, CONFIG)
    try:
        return cast("bytes", stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    except ClientError as error:
        if code_of(error) not in _ABSENT:
            raise
        return None


def _loaded(content: bytes, where: str) -> Settings:
    with TemporaryDirectory() as folder:
        file = Path(folder, CONFIG)
        file.write_bytes(content)
        try:
            return on_cluster(file)
        except SettingsError as error:
            said = str(error).replace(f"--settings {file}: ", "").replace(str(file), where)
            raise SettingsError(
                f"{where}, which was uploaded before: {said}; give others with --settings FILE"
            ) from error


def upload(stack: Stack, folder: Path, settings: EmrSettings, uri: str) -> None:
    """Put all that a step needs at `uri`."""
    for name, file in _files(folder):
        stack.client("s3").upload_file(str(file), *bucket_and_key(uri, name))
    settings.upload(stack, uri)


def on_cluster(file: Path) -> Settings:
    """The settings that the programs on the cluster get: those of the file, whatever the environment here says.

    Raises:
        SettingsError: they are not for a cluster.
    """
    settings = load_settings({}, file, environment=False)
    if settings.spark.master is not None:
        raise SettingsError(
            f"--settings {file}: spark.master is {settings.spark.master!r}, and would keep Spark on one node; set it "
            "to null, as conf/emr.yaml does"
        )
    return settings


def check_backbone(stack: Stack, locations: Locations) -> None:
    """Refuse a fit without the converted backbone.

    Raises:
        NotFoundError: saying how to get one.
    """
    bucket, key = bucket_and_key(locations.application, CONVERTED_BACKBONE)
    try:
        stack.client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) not in _ABSENT:
            raise
        platform = locations.application.rpartition("/")[2]
        built = build_folder(platform)
        deploy = stack.command("deploy", "--compute", stack.part, "--platform", platform)
        raise NotFoundError(
            f"{locations.application}/{CONVERTED_BACKBONE} is not there: EMR has no TensorFlow to convert the weights; "
            f"python -m batch_fit convert --to {built / CONVERTED_BACKBONE}, and {deploy} uploads them"
        ) from None


def bucket_and_key(uri: str, name: str) -> tuple[str, str]:
    """The location of a file in the folder `uri`."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/{name}"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((name, folder / name) for name in _BUILT)
    yield LAUNCHER, _HERE / LAUNCHER
    yield LOG4J, _HERE / LOG4J
    if (folder / CONVERTED_BACKBONE).is_file():
        yield CONVERTED_BACKBONE, folder / CONVERTED_BACKBONE


def locations_of(stack: Stack, outputs: Mapping[str, str], platform: str) -> Locations:
    """The locations of everything, as the data stack says in its outputs."""
    return Locations(
        application=f"{outputs['Applications']}/{platform}",
        input=outputs["Input"],
        models=outputs["Models"],
        output=outputs["Output"],
        region=stack.region,
        queue=outputs["QueueUrl"],
        log_group=outputs["LogGroupName"],
        snapshots=outputs["Snapshots"],
        table=f"{outputs['Database']}.snapshot",
    )
