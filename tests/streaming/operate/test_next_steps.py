"""What the answers to an operator say to type next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from conf.answers import Answer
from streaming.engine.progress import Replayed
from streaming.forget.answer import Forgotten
from streaming.operate.findings import Findings
from streaming.operate.health import Health
from streaming.operate.quarantine import Listed, RetryRequested
from streaming.operate.stop import Stopped

_FOUND = Findings("/in put", "/out", 9, 2, 0, 0, 0, 0, 0, 0, ["/in put/1.jpg"], [])
_LISTED = Listed("/out", {"corrupt": 2}, [], retries=0)


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        (_FOUND, "the same command with --enqueue"),
        (replace(_FOUND, requests=["one"]), None),
        (replace(_FOUND, missed=0), None),
        (_LISTED, "python -m streaming quarantine retry --output /out --reason REASON"),
        (replace(_LISTED, retries=1), None),
        (replace(_LISTED, reasons={}), None),
        (RetryRequested(3, None), "the same command without --dry-run"),
        (RetryRequested(3, ["one"]), None),
        (Forgotten("/out", dry_run=True, receipts=()), "the same command without --dry-run"),
        (Forgotten("/out", dry_run=False, receipts=()), None),
        (Stopped("/out", "process 7", ended=True), "python -m streaming status --output /out"),
        (Health(datetime(2026, 1, 31, tzinfo=UTC), "stopped", "process 7"), None),
        (
            Replayed("/out", 3, 1.0, {}, ["one"], 0, 0),
            """python -c 'import pandas; print(pandas.read_parquet("/out/features"))'""",
        ),
    ],
)
def test_it_is_a_command_with_the_paths_just_used(answer: Answer, step: str | None) -> None:
    """Or the same command, where its options decide; a monitor, and who has nothing left to do, gets none."""
    assert answer.next_step() == step
    assert answer.as_text().endswith(f"\nnext         {step}") == bool(step)
