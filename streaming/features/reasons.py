"""The stable reason codes of quarantine."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reason why a picture is in quarantine; part of the table's contract, so none ever changes its meaning."""

    EMPTY = "empty"
    """The file has no bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """The content is none of the accepted formats."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """The content is an image, in a format that is not accepted."""
    CORRUPT = "corrupt"
    """An accepted format that does not decode whole: damaged or truncated."""
    TOO_MANY_BYTES = "too_many_bytes"
    """Larger than imaging.max_bytes; it was not read."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More pixels than imaging.max_pixels; it was not decoded."""
    VANISHED = "vanished"
    """It disappeared between listing and reading."""
    DENIED = "denied"
    """It exists, and this user may not read it."""
    ARCHIVED = "archived"
    """It is in an archive (Glacier) and has to be restored first."""
    UNREADABLE = "unreadable"
    """It exists, and its store or disk fails to read it, although other pictures can be read."""
    BEING_WRITTEN = "being_written"
    """A local file that does not decode, and was still changing after imaging.timeout."""
    NOT_FINITE = "not_finite"
    """The backbone gave a NaN or an infinity."""
    CRASHED = "crashed"
    """The process that featurized it died twice, or it needs more memory than a picture of the largest size."""
    TIMEOUT = "timeout"
    """It took longer than imaging.timeout, twice."""
