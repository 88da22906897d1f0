"""Reads S3's event notifications: which objects have appeared below the input.

A message comes straight from S3, wrapped by SNS, or from EventBridge; keys are encoded differently in these forms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote_plus

from pydantic import AfterValidator, AliasChoices, AwareDatetime, BaseModel, Field, ValidationError

from streaming.storage.folder import StoredPicture

_CREATED = "ObjectCreated:"


def _check_encodable(text: str) -> str:
    text.encode()  # JSON can spell half a character
    return text


# A manifest with times outside of these could not be read back; no genuine message comes near them.
_Time = Annotated[AwareDatetime, Field(ge=datetime(2006, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))]
_Size = Annotated[int, Field(ge=0, lt=2**63)]
_Text = Annotated[str, AfterValidator(_check_encodable)]


class _Bucket(BaseModel):
    name: _Text


class _Object(BaseModel):
    key: _Text
    size: _Size
    etag: _Text | None = Field(None, validation_alias=AliasChoices("eTag", "etag"))


class _Place(BaseModel):
    bucket: _Bucket
    object: _Object


class _Record(BaseModel):
    event_time: _Time = Field(validation_alias="eventTime")
    s3: _Place


class _BridgeEvent(BaseModel):
    time: _Time
    detail: _Place


class _ForeignError(ValueError):
    """The message is not an event of this input."""


@dataclass(frozen=True)
class Notification:
    """The content of a message.

    Attributes:
        pictures: the pictures that have appeared below the input; empty for events of other kinds.
        problem: why the message, or a record in it, is not understood or not meant for this input.
        test_of: the bucket whose notification was set up, if this is the test message of S3.
    """

    pictures: tuple[StoredPicture, ...] = ()
    problem: str = ""
    test_of: str = ""


def read_notification(body: str, source: str) -> Notification:
    """Read the body of a message for the input at `source`, a canonical S3 path."""
    try:
        message = _parse(body)
        if message.get("Type") == "Notification":
            message = _parse(str(message.get("Message")))
    except _ForeignError as error:
        return Notification(problem=str(error))
    if message.get("Event") == "s3:TestEvent":
        return Notification(test_of=str(message.get("Bucket")))
    if message.get("source") == "aws.s3":
        return _read_all([message], _read_bridge_event, source)
    records = message.get("Records")
    if not isinstance(records, list):
        return Notification(problem="it is not an event of S3")
    return _read_all(records, _read_record, source)


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _ForeignError("it is not JSON") from None
    if not isinstance(value, dict):
        raise _ForeignError("it is not an event of S3")
    return value


def _read_all(records: list[Any], read: Any, source: str) -> Notification:
    pictures, problem = [], ""
    for record in records:
        try:
            picture = read(record)
            if picture is None:
                continue
            if not picture.path.startswith(f"{source}/"):
                raise _ForeignError(f"{picture.path!r} lies outside the input {source}")
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except ValueError as error:
            problem = str(error)
        else:
            pictures.append(picture)
    return Notification(tuple(pictures), problem)


def _read_record(record: Any) -> StoredPicture | None:
    """The picture in a record of S3; None if the record is not about a new object."""
    if not isinstance(record, dict) or not isinstance(name := record.get("eventName"), str):
        raise _ForeignError("it has a record that is not an event of S3")
    if not name.removeprefix("s3:").startswith(_CREATED):
        return None
    event = _Record.model_validate(record)
    # S3 encodes keys here, and nowhere else, as a web form does: a space is "+", a plus "%2B".
    return _as_picture(event.s3, unquote_plus(event.s3.object.key, errors="strict"), event.event_time)


def _read_bridge_event(message: Any) -> StoredPicture | None:
    """The picture in a message of EventBridge, which leaves keys as they are; None if it is not about a new object."""
    if message.get("detail-type") != "Object Created":
        return None
    event = _BridgeEvent.model_validate(message)
    return _as_picture(event.detail, event.detail.object.key, event.time)


def _as_picture(place: _Place, key: str, time: datetime) -> StoredPicture | None:
    if key.endswith("/") and not place.object.size:
        return None  # created by consoles to show an empty folder
    etag = (place.object.etag or "").strip('"') or None
    return StoredPicture(f"s3://{place.bucket.name}/{key}", place.object.size, time.astimezone(UTC), etag)
