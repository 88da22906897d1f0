"""Drift: whether the pictures that arrive are still of the kind that the model was fitted to.

The figure is compared with the held-out pictures of the fit; it warns each time that it rises above a threshold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streaming.registry.bundle import ENOUGH_HELD_BACK, HeldBackFigures

_logger = logging.getLogger(__name__)

WINDOW = 1000
"""So many pictures, the latest, are looked at."""

_EXPECTED = 0.05
_AS_EXPECTED = (*[True] * 5, *[False] * 95)


@dataclass(frozen=True)
class Window:
    """The latest pictures of one model.

    Attributes:
        version: the model.
        above: of each picture, the latest last, whether its reconstruction error is higher than expected.
        drift: their share, or None if the fit held back too few pictures to tell; the answer of the fit and `status`
            say so, and the log does not.
    """

    version: str
    above: tuple[bool, ...]
    drift: float | None


class DriftMonitor:
    """Follows the reconstruction errors of a stream.

    The figure is the share of the last 1,000 pictures whose reconstruction error is higher than that of 95 % of the
    pictures which the fit held back: 0.05, if nothing has changed. The window starts out with 100 pictures that are as
    expected, so that the first odd ones raise no alarm, and in a new process with what `recall` is given. A new model
    begins another.

    Args:
        threshold: it warns when the figure rises above this.
        refit: the command that makes a model of the pictures there are, without the version to start from.
    """

    def __init__(self, threshold: float, refit: str) -> None:
        self._threshold = threshold
        self._refit = refit
        self._window = Window("", (), None)

    def recall(self, version: str, fitted: HeldBackFigures | None, errors: NDArray[np.float32]) -> None:
        """Begin with the latest rows of a model in the table, the latest last: (n,), their reconstruction errors."""
        self._window = replace(self.look(version, fitted, errors), drift=None)  # it warns once in each process

    def look(self, version: str, fitted: HeldBackFigures | None, errors: NDArray[np.float32]) -> Window:
        """The window with a micro-batch in it, which changes nothing yet: one that fails is tried again.

        Args:
            version: the model of the micro-batch.
            fitted: what the model made of the pictures that its fit held back.
            errors: (n,), the reconstruction errors of the micro-batch.
        """
        if fitted is None or fitted.pictures < ENOUGH_HELD_BACK:
            return Window(version, (), None)
        before = self._window.above if version == self._window.version else _AS_EXPECTED
        above = (*before, *(errors > fitted.error_p95).tolist())[-WINDOW:]
        return Window(version, above, sum(above) / len(above))

    def keep(self, window: Window) -> None:
        """Go on from the window of a committed micro-batch; warns each time that drift rises above the threshold."""
        former, self._window = self._window, window
        if window.drift is None:
            return
        was_above = former.version == window.version and (former.drift or 0) > self._threshold
        if window.drift > self._threshold and not was_above:
            self._warn(window.version, window.drift)

    def _warn(self, version: str, drift: float) -> None:
        _logger.warning(
            "drift %.2f: %.0f%% of the last pictures have a higher reconstruction_error by model %s than %.0f%% of "
            "those that its fit held out; look at the highest, and if these pictures belong here, a refit is due: "
            "%s --from %s",
            drift,
            100 * drift,
            version,
            100 * (1 - _EXPECTED),
            self._refit,
            version,
        )
