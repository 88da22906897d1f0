"""The findings of a comparison of the input with the manifest log, as text for people and JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from conf.answers import Answer, Row
from conf.plural import plural


@dataclass(frozen=True)
class Changed:
    """A picture that has changed since it was put into a manifest.

    Attributes:
        path: raw key.
        length, modification_time: the present ones.
        known_length, known_modification_time: those in the manifest.
    """

    path: str
    length: int
    modification_time: datetime
    known_length: int
    known_modification_time: datetime

    def __str__(self) -> str:
        before, now = self.known_modification_time, self.modification_time
        return (
            f"{self.path} ({self.known_length:,} bytes of {before:%Y-%m-%d %H:%M:%S}, "
            f"now {self.length:,} of {now:%Y-%m-%d %H:%M:%S})"
        )


@dataclass(frozen=True)
class Findings(Answer):
    """The findings. All counts are of pictures, except as stated.

    Attributes:
        input, output: canonical paths.
        listed: in the input.
        missed: in no manifest and in no request.
        changed: overwritten since they were seen.
        gone: in a manifest and no longer in the input.
        requested: in a request that the stream has not taken in yet.
        unsettled: in no manifest, and touched a minute ago or later (by either clock, if one is ahead), so perhaps
            still being written.
        left_out: number of paths that cannot be read, or are not files.
        ignored: number of files and folders that are ignored by name: `stream.ignore` and `stream.include`.
        missed_examples, changed_examples: the first by path.
        requests: ids of the requests for missed pictures; None without `--enqueue`.
    """

    input: str
    output: str
    listed: int
    missed: int
    changed: int
    gone: int
    requested: int
    unsettled: int
    left_out: int
    ignored: int
    missed_examples: Sequence[str]
    changed_examples: Sequence[Changed]
    requests: Sequence[str] | None = None

    def rows(self) -> Iterator[Row]:
        """A row per count, with its examples."""
        yield "listed", f"{plural(self.listed, 'picture')} in {self.input}"
        yield from _counted("missed", self.missed, "in no manifest", self.missed_examples)
        yield from _counted("changed", self.changed, "overwritten since they were seen", self.changed_examples)
        yield from _counted("gone", self.gone, "seen, and no longer in the input")
        for word, count, meaning in (
            ("requested", self.requested, "wait for the stream to take them in"),
            ("unsettled", self.unsettled, "changed within the last minute and may still be being written"),
            ("left out", self.left_out, "paths that cannot be read or are not files, as run leaves them out"),
            ("ignored", self.ignored, "files and folders by name (stream.ignore, stream.include)"),
        ):
            if count:
                yield from _counted(word, count, meaning)
        if self.requests:
            requests = plural(len(self.requests), "request")
            taken = f"{self.missed:,} in {requests}; the running stream takes them in, or the next run or replay"
            yield "enqueued", taken
        elif self.missed:
            yield "", "a running stream may take the latest of the missed by itself; --enqueue requests all"
        if self.changed:
            yield "", "a changed picture is not read again: give it a new name, or replay into a new output"
        if not (self.missed or self.changed or self.requested or self.unsettled):
            yield "all well", "every picture in the input is in a manifest as it is now"

    def next_step(self) -> str | None:
        """To request what was missed, and only that: the names that count as pictures decide what is missed."""
        return "the same command with --enqueue" if self.missed and not self.requests else None


def _counted(word: str, count: int, meaning: str, examples: Sequence[object] = ()) -> Iterator[Row]:
    yield word, f"{count:,}{f' {meaning}' if count else ''}"
    yield from (("", example) for example in examples)
    if examples and count > len(examples):
        yield "", f"and {count - len(examples):,} more"
