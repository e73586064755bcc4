"""How far a device's int8 model is from the float model of the same release, on the device's own real windows.

The cloud measures this on windows it had to make up (it has no others); here are real ones, and nothing of them leaves: two
figures do, into this device's log. It compares, and decides nothing: whether a release may run is for golden vectors and the trial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.int8_model import WindowModel
from models.local_training import Scorer

__all__ = ["Int8Agreement", "compare_on_windows"]


@dataclass(frozen=True, kw_only=True)
class Int8Agreement:
    """What int8 loses over so many windows; the errors are defined as a release's own figures are.

    `output_error`: mean squared difference of the outputs over the float outputs' mean square. `score_error`: mean
    absolute difference of the scores over the mean float score.
    """

    windows: int
    output_error: float
    score_error: float


def compare_on_windows(int8: WindowModel, floats: Scorer, windows: NDArray[np.float32]) -> Int8Agreement:
    """Run both models on standardised windows (n, F).

    Args:
        int8: the release's int8 model.
        floats: its training model, holding the release's parameters.
        windows: n ≥ 1.

    Raises:
        InputError: no windows, or one the models cannot score.
    """
    if not len(windows):
        raise InputError("int8 and float are compared on at least one window, got none")
    expected, expected_scores = floats.infer(windows)
    answers = [int8.infer_and_score(window) for window in windows]
    outputs = np.array([output for output, _ in answers], np.float64)
    scores = np.array([score for _, score in answers])
    tiny = np.finfo(np.float32).tiny
    return Int8Agreement(
        windows=len(windows),
        output_error=float(np.mean((outputs - expected) ** 2) / max(np.mean(np.square(expected)), tiny)),
        score_error=float(np.mean(np.abs(scores - expected_scores)) / max(np.mean(expected_scores), tiny)),
    )
