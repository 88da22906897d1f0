"""The choices of a search that its command line names; it imports nothing, so that help comes at once."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = get_args(Metric)

WITHIN = 0.1
"""The default of --within; docs/insight.md says how it was found."""
