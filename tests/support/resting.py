"""Runs a verb of the stream, whose query on S3 rests after a second without work.

python -m tests.support.resting ARGUMENTS
"""

from __future__ import annotations

import sys

from streaming.__main__ import main
from streaming.engine import loop

if __name__ == "__main__":
    loop._REST_SECONDS = 1.0
    sys.exit(main())
