"""What a notification says, in each of the forms that it comes in; no server is needed for that."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

from hypothesis import given
from hypothesis import strategies as st

from streaming.discovery.notifications import read_notification
from tests.support.queues import record


def test_other_roads_of_a_notification_are_understood() -> None:
    """Through SNS it is wrapped; EventBridge has a form of its own, where the key stands as it is."""
    inner = json.dumps({"Records": [record("b", "in/a+b%2Bc")]})
    [picture] = read_notification(json.dumps({"Type": "Notification", "Message": inner}), "s3://b/in").pictures
    assert picture.path == "s3://b/in/a b+c"
    assert picture.modification_time == datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
    event = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "time": "2026-01-31T12:00:00Z",
        "detail": {"bucket": {"name": "b"}, "object": {"key": "in/a+b%2Bc", "size": 3, "etag": "abc"}},
    }
    [picture] = read_notification(json.dumps(event), "s3://b/in").pictures
    assert (picture.path, picture.length, picture.etag) == ("s3://b/in/a+b%2Bc", 3, "abc")
    assert read_notification(json.dumps({**event, "detail-type": "Object Deleted"}), "s3://b/in").pictures == ()
    assert read_notification('{"source": "aws.ec2"}', "s3://b/in").problem


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_key_comes_back_as_it_was(key: str) -> None:
    """Whatever characters a key has, encoded as S3 encodes it."""
    body = json.dumps({"Records": [record("b", "in/" + quote_plus(key, safe="/-_.*"), size=1)]})
    [picture] = read_notification(body, "s3://b/in").pictures
    assert picture.path == f"s3://b/in/{key}"


@given(st.text() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps))
def test_no_message_whatever_breaks_the_stream(body: str) -> None:
    """What is not understood is a problem with words, and no exception."""
    said = read_notification(body, "s3://b/in")
    assert said.problem
    assert not said.pictures


@given(
    st.sampled_from(["key", "size", "eTag"]),
    st.none() | st.booleans() | st.floats() | st.integers() | st.just("\ud800") | st.lists(st.none()),
)
def test_a_record_with_wrong_values_can_always_be_written_or_is_left(name: str, value: Any) -> None:
    """A manifest that cannot be read back would stop the stream for good."""
    said = read_notification(json.dumps({"Records": [record("b", "in/x", **{name: value})]}), "s3://b/in")
    assert bool(said.problem) != bool(said.pictures)
    for picture in said.pictures:
        assert len(picture.identity) == 16
        (picture.etag or "").encode()
        assert 0 <= picture.length < 2**63
