"""The findings of a comparison of the input with the manifest log, as text for people and JSON for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from conf.answers import JsonAnswer


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
class Findings(JsonAnswer):
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

    def as_text(self) -> str:
        """A line per count with its examples, and the next steps."""
        lines = [f"listed       {self.listed:,} pictures in {self.input}"]
        lines += _counted("missed", self.missed, "in no manifest", self.missed_examples)
        lines += _counted("changed", self.changed, "overwritten since they were seen", self.changed_examples)
        lines += _counted("gone", self.gone, "seen, and no longer in the input")
        for word, count, meaning in (
            ("requested", self.requested, "wait for the stream to take them in"),
            ("unsettled", self.unsettled, "changed within the last minute and may still be being written"),
            ("left out", self.left_out, "paths that cannot be read or are not files, as run leaves them out"),
            ("ignored", self.ignored, "files and folders by name (stream.ignore, stream.include)"),
        ):
            if count:
                lines += _counted(word, count, meaning)
        return "\n".join(lines + self._next_steps())

    def _next_steps(self) -> list[str]:
        steps = []
        if self.requests:
            requests = "1 request" if len(self.requests) == 1 else f"{len(self.requests):,} requests"
            steps.append(
                f"enqueued     {self.missed:,} in {requests}; the running stream takes them in, "
                "or the next run or replay"
            )
        elif self.missed:
            again = shlex.join(("--input", self.input, "--output", self.output))
            steps += [
                "next         a running stream may take the latest of the missed by itself; to request all:",
                f"             python -m streaming reconcile {again} --enqueue",
            ]
        if self.changed:
            steps.append(
                "next         a changed picture is not read again: give it a new name, or replay into a new output"
            )
        if not (self.missed or self.changed or self.requested or self.unsettled):
            steps.append("all well     every picture in the input is in a manifest as it is now")
        return steps


def _counted(word: str, count: int, meaning: str, examples: Sequence[object] = ()) -> list[str]:
    more = [f"             and {count - len(examples):,} more"] if examples and count > len(examples) else []
    return [
        f"{word:<12} {count:,}{f' {meaning}' if count else ''}",
        *(f"             {example}" for example in examples),
        *more,
    ]
