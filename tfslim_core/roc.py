"""ROC curves from counted scores, with so few points that they go into a file and a plot."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.score_sketch import ScoreSketch
from tfslim_core.verdict import RocCurve

Array = NDArray[Any]

_STEPS = 100  # that a curve is cut into; each is 2 / _STEPS long, to the right and up together


def roc_curve(sketch: ScoreSketch, *, differences: bool = False) -> RocCurve | None:
    """The curve from (0, 0) to (1, 1); None where no score is of its class, or every one.

    Of several classes it is the micro average: each score counts, as one of its class or of the others.
    differences: of the two probabilities of an example; thresholds are then told as the second one's probability.
    """
    lowest, of, others = sketch.totals()
    if not of.sum() or not others.sum():
        return None
    # Nothing is above the first threshold: as far above the highest bucket as that is wide or more.
    above = lowest[0] + max(abs(lowest[0]), 1.0) / 16
    thresholds = np.array([above, *lowest])
    if differences:
        thresholds = np.maximum((1 + thresholds) / 2, 0)
    tpr, fpr = (np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]) for counts in (of, others))
    kept = _told(fpr, tpr)
    return RocCurve(fpr=fpr[kept].tolist(), tpr=tpr[kept].tolist(), threshold=thresholds[kept].tolist())


def area(curve: RocCurve) -> float:
    """The area under a curve, its points joined by straight lines."""
    return float(np.trapezoid(curve.tpr, curve.fpr))


def _told(fpr: Array, tpr: Array) -> NDArray[np.int64]:
    """The points to keep: both ends, the corners, and where the way along the curve has come another step on."""
    steps = np.floor((fpr + tpr) * _STEPS / 2 + 1e-9)
    kept = np.diff(steps, prepend=-1) > 0
    # The last point before a step is kept as well: a curve may turn there and go on far.
    kept[:-1] |= np.diff(fpr + tpr) > 2 / _STEPS
    kept[[0, -1]] = True
    return np.flatnonzero(kept)
