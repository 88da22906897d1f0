"""The tree of all settings, with their meanings, defaults and allowed values.

Command-line flags win over environment variables, which win over the YAML file of `--config`, which wins over the
defaults below. The key `stream.interval` is the flag `--interval`, the variable
`PICTURE_FEATURES_STREAM__INTERVAL`, and the YAML entry `interval:` under `stream:`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from conf.patterns import IGNORED_BY_DEFAULT, IgnorePatterns, IncludePatterns

ENV_PREFIX = "PICTURE_FEATURES_"

_DEFAULT_VARIANCE = 0.9
_TABLE = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(" + "|".join(sorted(_UNIT_SECONDS, key=len, reverse=True)) + ")")


def parse_duration(value: object) -> timedelta:
    """A duration written as people write it: `500ms`, `5s`, `2min`, `1h`.

    Raises:
        ValueError: `value` is not a number with one of the units.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip().lower())
    if not match:
        raise ValueError(f"a duration is a number with a unit ({', '.join(_UNIT_SECONDS)}), like 500ms or 5s")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if not math.isfinite(seconds) or seconds > timedelta.max.total_seconds():
        raise ValueError("this duration is too long")
    return timedelta(seconds=seconds)


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


def _as_number(value: object) -> object:
    """A whole number from text, as flags and variables have it; all else as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()) else value


Side = Annotated[Literal[224, 192, 160], BeforeValidator(_as_number)]


def _property_text(value: object) -> object:
    """A number or a boolean as Spark writes it; in YAML they arrive as text, in JSON they do not."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


SparkProperty = Annotated[str, BeforeValidator(_property_text)]


def _table_name(value: str) -> str:
    if not _TABLE.fullmatch(value):
        raise ValueError("a table is DATABASE.TABLE, in lower-case letters, digits and underscores")
    return value


GlueTable = Annotated[str, AfterValidator(_table_name)]


class Section(BaseModel):
    """A group of settings; unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamSettings(Section):
    """The streaming job."""

    discovery: Literal["listing", "events"] = Field(
        "listing",
        description="How new pictures are found: listing looks at the whole input (run: once per interval); events "
        "takes S3's event notifications from a queue (replay: until it is empty), which costs the same however many "
        "old pictures there are.",
    )
    queue: str | None = Field(None, description="The URL of the SQS queue that gets the notifications, for events.")
    interval: Duration = Field(
        timedelta(seconds=5),
        description="The longest that a new picture waits for its manifest to fill. Listing looks once per "
        "interval; on S3 each 1,000 keys of a look are one paid request.",
    )
    max_pictures: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="The most pictures in one manifest, and so in one micro-batch. Default: 2,000 per Spark task slot, "
        "and at most 20,000 where embeddings are kept.",
    )
    settle: Duration = Field(
        timedelta(seconds=2),
        description="A new local file is complete when it had the same length and times in two looks at least this far "
        "apart, or has not changed for a minute when the stream starts. Writers that rename finished files into place "
        "can use 0s.",
    )
    ignore: IgnorePatterns = Field(
        IGNORED_BY_DEFAULT,
        description="Names that are not pictures, in any case, with commas between them: *.tmp is for files, @eaDir/ "
        "for folders. They replace the default, which conf/patterns.py lists; default,*.xmp adds to it.",
    )
    include: IncludePatterns = Field(
        (),
        description="Take only files of these names, in any case, with commas between them, like *.jpg,*.jpeg. "
        "Default: all that stream.ignore leaves.",
    )
    embeddings: Literal["keep", "drop"] = Field(
        "keep",
        description="Whether the 1280 features of the backbone are kept in OUTPUT/embeddings, some 3 kB a picture: a "
        "refit then reads no picture, and export can put all rows into one model.",
    )
    lease: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(seconds=1),
        description="A stream that was killed on another machine or in another container may be succeeded after this "
        "long. A start waits for that, but for no longer than a minute: then it ends with exit code 5. One that was "
        "killed on the same machine is succeeded at once.",
    )
    epoch_manifests: int = Field(
        150,
        ge=1,
        description="After this many manifests the stream folds the finished ones into its record of known pictures "
        "and goes on in a fresh checkpoint, so that planning a micro-batch stays fast for years.",
    )
    drift_threshold: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Warn when more than this share of the last 1,000 pictures is expressed worse than 95% of the "
        "held-out pictures of the fit; 0.05 is to be expected, and 1 never warns.",
    )


class ImagingSettings(Section):
    """The limits of the decoder. Pictures beyond them go to quarantine."""

    max_bytes: ByteSize = Field(
        ByteSize(64 * 1024**2),
        gt=0,
        description="A larger file is quarantined as too_many_bytes without being read.",
    )
    max_pixels: int = Field(
        50_000_000,
        gt=0,
        le=178_956_970,  # beyond, Pillow itself refuses some formats
        description="A picture with more pixels is quarantined as too_many_pixels before it is decoded. Decoding "
        "takes up to 21 bytes of worker memory per pixel (WebP 16, AVIF 18, HEIC 21; a JPEG as cameras write it takes "
        "next to none).",
    )
    timeout: Duration = Field(
        timedelta(seconds=60),
        gt=timedelta(0),
        description="A picture that takes longer from its bytes to its features, twice, is quarantined as timeout. It "
        "ends the worker that it holds up.",
    )
    fetch_ahead: int | None = Field(
        None,
        ge=1,
        le=256,
        description="How many pictures each worker reads ahead of the one that it is featurizing, of 64 MiB "
        "at most. Default: 4 on a local disk, 16 on S3.",
    )


class S3Settings(Section):
    """The connection to S3. Missing values come from the AWS environment variables and profile; keys always do."""

    endpoint: str | None = Field(None, description="The address of a store other than AWS, or of PrivateLink.")
    region: str | None = Field(None, description="The region of the buckets.")
    path_style: bool | None = Field(
        None,
        description="Whether the bucket stands in the path instead of the host name. Default: where the endpoint is an "
        "IP address or localhost.",
    )
    attempts: int = Field(
        5, ge=1, description="The number of attempts at a request, with exponential backoff between them."
    )
    timeout: Duration = Field(
        timedelta(seconds=20),
        description="A request is retried after this long without a sign from the store.",
    )


class FitSettings(Section):
    """The settings of a fit."""

    k: int | None = Field(None, ge=1, description="The number of components.")
    variance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Take the fewest components that explain this share of the variance, like 0.9. "
        f"The default, where --k is not given either, is {_DEFAULT_VARIANCE}.",
    )
    embeddings: str | None = Field(
        None,
        description="In place of the input: an output whose embeddings are read, so that no picture need be.",
    )
    since: date | None = Field(None, description="Of the embeddings, leave out days before this one (UTC).")
    until: date | None = Field(None, description="Of the embeddings, leave out days after this one (UTC).")
    backbone: str | None = Field(
        None,
        description="Take the embeddings of this backbone, by its id, where an output has those of several. Default: "
        "that of the current model, if it is among them.",
    )
    weights: str = Field(
        "imagenet",
        description="The backbone's weights: imagenet (from Keras's cache, or downloaded), the path of a Keras "
        "weights file or of a backbone that convert wrote, or random:SEED (for trying things out: the features mean "
        "nothing).",
    )
    side: Side | None = Field(
        None,
        description="The width and height in pixels at which the backbone sees pictures. A smaller one is "
        "faster and gives other features, which the report compares with those of 224. Default: that of the model or "
        "the embeddings that the fit begins with, or of a converted backbone, else 224.",
    )
    save_features: str | None = Field(
        None,
        description="Also write path, label and the 1280 features of every picture as Parquet here; with --from, those "
        "of new pictures only, and nothing if there are none.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Fit on a sample of this many pictures, spread over the whole input. The same pictures are "
        "chosen each time.",
    )
    from_version: str | None = Field(
        None,
        description="Add to the statistics of this model (current: of the current one): only pictures that it has not "
        "seen are read, and the result is the same as that of a fit on all of them. With --limit, older pictures weigh "
        "more in it once the folder has grown.",
    )
    promote: Literal["always", "if-not-worse", "never"] = Field(
        "always",
        description="Whether to make the new model the current one. if-not-worse is for unattended refits: the model "
        "must keep as much of the variance of pictures that neither has seen as the current one.",
    )
    classify: bool | None = Field(
        None,
        description="Also fit a classifier of the pictures' labels, the names of their folders; the stream then "
        "predicts the label of each picture. Labels with fewer than 10 pictures are left out. Default: a fit on "
        "embeddings does if the model of --from, or else the current one, has a classifier; no other fit does.",
    )
    holdout: Literal["picture", "folder", "prefix"] | None = Field(
        None,
        description="Where the classifier is measured: on every tenth picture, or on whole series, for pictures of one "
        "object that look alike. folder: the pictures of a label below one folder, such as DAY of DAY/LABEL/1.jpg, are "
        "a series; prefix: those of a label whose file names agree up to the trailing numbers, such as r_1_100.jpg and "
        "r_2_100.jpg, are. A tenth of the series of each label is held out, at least one where there are two. The "
        "classifier that is served is fitted on all. Default: as the classifier of the former model was, else picture.",
    )
    thumbnails: bool = Field(
        True,
        description="Whether the report shows some of the pictures, small, as it does by default. --no-thumbnails "
        "leaves numbers and paths.",
    )

    @model_validator(mode="after")
    def _one_decides(self) -> Self:
        if self.k is not None and self.variance is not None:
            raise ValueError("k and variance exclude each other; give either")
        return self

    @property
    def variance_target(self) -> float | None:
        """The share of the variance that decides where `k` does not; None if `k` is given."""
        return None if self.k is not None else self.variance or _DEFAULT_VARIANCE


class ExportSettings(Section):
    """The settings of an export."""

    to: str | None = Field(None, description="The folder of the snapshots, and of LATEST, which names the latest one.")
    format: Literal["parquet", "csv"] = Field(
        "parquet",
        description="parquet has the columns of OUTPUT/features; csv has gzipped files in a folder for each model, "
        "with a column for each feature.",
    )
    model: str | None = Field(
        None,
        description="Put all rows into one model, from their embeddings: current, or a VERSION of the registry. "
        "as-ingested leaves each row in the model that it was made with. Default: current where OUTPUT has embeddings.",
    )
    since: date | None = Field(None, description="Leave out days before this one (UTC), like 2026-01-31.")
    target_mb: int = Field(
        128, ge=1, le=4096, description="The size in MiB above which a day is cut into several files."
    )
    keep: int | None = Field(
        None, ge=1, description="Delete older snapshots, so that this many are left. Default: all are kept."
    )
    glue_table: GlueTable | None = Field(
        None,
        description="Point this table of the Glue catalog, DATABASE.TABLE, at the latest snapshot, for Athena. The "
        "database has to be there; the table is created if it is not.",
    )


class SparkSettings(Section):
    """The Spark session."""

    master: str | None = Field(
        "local[*,4]",
        description="Where Spark runs; null in the file leaves it to spark-submit. The 4 lets a task be tried four "
        "times, as on a cluster.",
    )
    ui: bool = Field(
        False,
        description="Show Spark's own pages about jobs and queries on a free port of 127.0.0.1, which the log names: "
        "of a local Spark only, as a cluster has its own.",
    )
    conf: dict[str, SparkProperty] = Field({}, description="More Spark properties, as in spark-defaults.conf.")


class LogSettings(Section):
    """The settings of logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level that is shown.")
    format: Literal["auto", "text", "json"] = Field(
        "auto", description="text for people, json for machines (one object per line); auto is text on a terminal."
    )
    metrics: Literal["none", "emf"] = Field(
        "none",
        description="emf puts the metrics of each micro-batch into its line of the JSON log, in CloudWatch's embedded "
        "metric format, and an idle stream adds a line a minute.",
    )
    metrics_group: str | None = Field(
        None,
        description="With metrics: emf, the log group of CloudWatch to which run and replay send their metrics "
        "themselves, which takes logs:CreateLogStream and logs:PutLogEvents. They are not part of the log then.",
    )
    folder: Path | None = Field(
        None,
        description="Where the log files with all details go, Spark's own and Java and Python traces included. "
        "Default: picture-features in $XDG_STATE_HOME or ~/.local/state; without a home, in the temporary folder.",
    )


class Settings(BaseSettings):
    """The whole tree. Build it with `load_settings`, which raises a `SettingsError` for a wrong value."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    input: str | None = Field(None, description="The folder with the pictures, searched to any depth.")
    models: str | None = Field(None, description="The model registry: a folder of bundles and CURRENT.")
    output: str | None = Field(
        None, description="The output: the tables features/, embeddings/ and quarantine/, and the stream's own records."
    )
    checkpoint: str | None = Field(
        None,
        description="The folder of this machine for Spark's checkpoint. "
        "Default: OUTPUT/_checkpoint, or a temporary folder if the output is on S3.",
    )
    stream: StreamSettings = StreamSettings()
    imaging: ImagingSettings = ImagingSettings()
    s3: S3Settings = S3Settings()
    fit: FitSettings = FitSettings()
    export: ExportSettings = ExportSettings()
    spark: SparkSettings = SparkSettings()
    log: LogSettings = LogSettings()


def field_of(key: str) -> FieldInfo:
    """The declaration of a setting by its dotted key, like `stream.interval`."""
    model: type[BaseModel] = Settings
    *sections, name = key.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return model.model_fields[name]


def keys() -> list[str]:
    """The dotted keys of all settings, in their order."""
    return [*_keys(Settings)]


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from (f"{name}.{inner}" for inner in _keys(field.annotation))
        else:
            yield name
