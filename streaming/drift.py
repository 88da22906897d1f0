"""Drift: whether the pictures that arrive are still of the kind that the model was fitted to.

It owns the figure, what it is compared with, and when it warns; it must not know of Spark, nor where errors come from.
"""

from __future__ import annotations

import logging
from collections import deque

import numpy as np
from numpy.typing import NDArray

from streaming.features.bundle import ENOUGH_HELD_BACK, HeldBackFigures

_logger = logging.getLogger(__name__)

WINDOW = 1000
"""So many pictures, the latest, are looked at."""

_EXPECTED = 0.05
_SEED = 100


class DriftMonitor:
    """Follows the reconstruction errors of a stream.

    The figure is the share of the last 1,000 pictures whose reconstruction error is higher than that of 95 % of the
    pictures which the fit held back: 0.05, if nothing has changed. The window starts out with 100 pictures that are as
    expected, so that the first odd ones raise no alarm; a new model, and a new process, start it anew.

    Args:
        threshold: it warns when the figure rises above this.
        refit: the command that makes a model of the pictures there are, without the version to start from.
    """

    def __init__(self, threshold: float, refit: str) -> None:
        self._threshold = threshold
        self._refit = refit
        self._version: str | None = None
        self._above: deque[bool] = deque(maxlen=WINDOW)
        self._warned = False

    def observe(self, version: str, fitted: HeldBackFigures | None, errors: NDArray[np.float32]) -> float | None:
        """The drift after a micro-batch; warns once each time that it rises above the threshold.

        Args:
            version: the model of the micro-batch.
            fitted: what the model made of the pictures that its fit held back.
            errors: (n,), the reconstruction errors of the micro-batch.

        Returns:
            A share, or None if the model was fitted to too few pictures to tell.
        """
        if version != self._version:
            self._start(version, fitted)
        if fitted is None or fitted.pictures < ENOUGH_HELD_BACK:
            return None
        self._above.extend((errors > fitted.error_p95).tolist())
        drift = sum(self._above) / len(self._above)
        if drift > self._threshold and not self._warned:
            self._warn(version, drift)
        self._warned = drift > self._threshold
        return drift

    def _start(self, version: str, fitted: HeldBackFigures | None) -> None:
        expected = round(_EXPECTED * _SEED)
        self._version, self._warned = version, False
        self._above.clear()
        self._above.extend([True] * expected + [False] * (_SEED - expected))
        held_back = fitted.pictures if fitted else 0
        if held_back < ENOUGH_HELD_BACK:
            _logger.info(
                "model %s cannot tell drift: its fit held back %d pictures, and %d are needed",
                version,
                held_back,
                ENOUGH_HELD_BACK,
            )

    def _warn(self, version: str, drift: float) -> None:
        _logger.warning(
            "drift %.2f: %.0f%% of the last pictures are expressed worse by model %s than all but %.0f%% of those it "
            "was fitted to; look at those with a high reconstruction_error, and if they belong here, a refit is due: "
            "%s --from %s",
            drift,
            100 * drift,
            version,
            100 * _EXPECTED,
            self._refit,
            version,
        )
