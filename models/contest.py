"""How well contenders tell a device's disturbed windows from its aged ones, as counts that add up over devices.

::

    held-out windows ─┬─► age ─┬─────────────► each contender's scores ─► SCORE_GRID counts "…_aged"
                      │        └─► disturb ──► each contender's scores ─► SCORE_GRID counts "…_disturbed"
                      └─► the champion's scores, in int8 where it runs here ──► SCORE_GRID counts "champion_scores"

The contenders share one layout, so one training model scores them all, one after the other. What the summed counts mean is for the
aggregator to say (`aggregator.rounds.contest`); a device draws no conclusion.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.int8_model import WindowModel
from models.local_training import Trainable
from models.perturbations import age, disturb
from protocol.grids import SCORE_GRID
from protocol.questions import CONTENDERS

__all__ = ["score_contenders"]


def score_contenders(
    model: Trainable,
    contenders: Mapping[str, NDArray[np.floating]],
    x: NDArray[np.floating],
    *,
    seed: int,
    running: WindowModel | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The parts of an ``evaluate.contest`` answer for held-out windows x (n, F), by `protocol.questions.contest_layout`.

    Args:
        model: the runner; it ends up holding the champion.
        contenders: flat parameters (P,) of each of `CONTENDERS`.
        x: standardised windows, finite, oldest first.
        running: the champion's int8 model where this device runs it: whether its threshold still holds is a question about what judges
            the windows, not about the float model that nobody runs.
        seed: of ageing and disturbances; every device adds its own windows to it, so that a fleet is not disturbed alike.

    Raises:
        InputError: no windows, one that is not finite, or a contender's score that is not.
    """
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise InputError(f"a contest needs finite windows of shape (≥1, F), got {x.shape}")
    windows = np.ascontiguousarray(x, np.float32)
    rng = np.random.default_rng([seed % 2**32, zlib.crc32(windows.tobytes())])
    aged = age(windows, rng)
    made = {"aged": aged, "disturbed": disturb(aged, rng)}
    parts = {"examples": np.array([len(windows)], np.float64)}
    for name in CONTENDERS:
        model.restore(contenders[name])
        for kind, rows in made.items():
            parts[f"{name}_{kind}"] = _counted(model, rows, name)
    if running is not None:
        scores = np.array([running.infer_and_score(window)[1] for window in windows])
        return {**parts, "champion_scores": SCORE_GRID.count(scores)}
    model.restore(contenders["champion"])
    parts["champion_scores"] = _counted(model, windows, "champion")
    return parts


def _counted(model: Trainable, rows: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    scores = model.infer(rows)[1].astype(np.float64)
    if not np.isfinite(scores).all():
        raise InputError(f"contender {name!r} gives windows scores that are not finite")
    return SCORE_GRID.count(scores)
