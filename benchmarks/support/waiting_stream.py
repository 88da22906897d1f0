"""The stream with a featurizer that waits instead of working; all else is the application's own.

Run it as `python -m benchmarks.support.waiting_stream replay ...`.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from benchmarks.support.waiting import featurize_with
from streaming.__main__ import main

if __name__ == "__main__":
    with patch("streaming.engine.executors.featurize_with", featurize_with):
        sys.exit(main())
