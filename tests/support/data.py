"""The reference data beside the checkout, which is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_data() -> Path:
    """The folder of the reference data. Without it a test is skipped, and fails in CI, where nobody reads of a skip."""
    if SHARED.is_dir():
        return SHARED
    message = f"this test needs the reference data in {SHARED}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
