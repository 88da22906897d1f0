"""Runs a verb of the stream, and has Spark do what the program would do by itself, as there is so little of it.

python -m tests.support.by_spark ARGUMENTS
"""

from __future__ import annotations

import sys

from streaming.__main__ import main
from streaming.export import compaction
from streaming.forget import sweeper

if __name__ == "__main__":
    compaction.FILES_HERE = 0
    sweeper.SECONDS_HERE = 0
    sys.exit(main())
