"""How long a reply takes tells two windows apart by no test of ranks, on a real clock; a wait that depends on a window is found.

Pairs of both worlds are asked the same question in turns, in random order, so that what else the machine does falls on both alike.
The recorder looks at times, too, on a clock that counts work; here it is everything that this machine really does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from attacker import Attacker
from crafted import gated, narrow_gate
from recorded_device import ARCHITECTURE, FEATURES, Float
from scipy.stats import mannwhitneyu
from two_worlds import PROFILE, VICTIM, World, windows, without_parameter_limits

from edge_agent.learner.local_learner import LocalLearner
from edge_agent.learner.time_grid import TimeGrid

pytestmark = [pytest.mark.slow, pytest.mark.long]

PAIRS = 60
UNLIKELY = 1e-4
ROWS = windows(5, 600)
AT = 599
TRIANGLE = FEATURES * (FEATURES + 1) // 2


def other_rows() -> Float:
    changed = ROWS.copy()
    changed[AT] = 4 * windows(77, 1)[0]
    return changed


def asked() -> dict[str, tuple[dict[str, Float], dict[str, Any]]]:
    """Of each kind, what makes the most of the difference: one world's answer overflows, diverges, or is left out."""
    changed, rest = other_rows(), ROWS[:AT]
    gate = narrow_gate(changed[AT], rest)
    overflow = gated(ARCHITECTURE, [gate], sharpness=1e9, gain=1e22)
    identity = np.eye(FEATURES)[np.triu_indices(FEATURES)].astype(np.float32)
    scale = {
        "scale_log_variance": np.zeros(FEATURES, np.float32),
        "scale_freedom": np.full(FEATURES, 2000, np.float32),
    }
    return {
        "train.fit": ({"parameters": overflow}, {}),
        "evaluate.assess": ({"candidate": overflow}, {}),
        "evaluate.covariance": (scale, {}),
        "evaluate.curve": (
            scale | {"correlation": identity, "wander": np.zeros(TRIANGLE, np.float32)},
            {"devices": 2, "squares": 0.5, "error": 0.1},
        ),
    }


def times_of(folder: Path, kind: str, *, grid: Any) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(2)
    worlds = [
        World(folder / str(side), rows, np.ones(FEATURES), grid=grid)
        for side, rows in enumerate((ROWS, other_rows()))
    ]
    attackers = [Attacker(world, PROFILE) for world in worlds]
    arrays, more = asked()[kind]
    with without_parameter_limits():
        for _ in range(PAIRS + 5):
            for side in rng.permutation(2):
                attackers[side].ask(kind, arrays, **more)
    # The first few meet files and code that are not loaded yet.
    one, other = (world.devices[VICTIM].road.took_s[kind][5:] for world in worlds)
    for world in worlds:
        world.close()
    return one, other


def on_real_time() -> TimeGrid:
    return TimeGrid(time.monotonic, time.sleep)


@pytest.mark.parametrize("kind", ["train.fit", "evaluate.assess", "evaluate.covariance", "evaluate.curve"])
def test_the_time_of_a_reply_does_not_tell_two_windows_apart(kind: str, folder: Path) -> None:
    one, other = times_of(folder, kind, grid=on_real_time)
    p = mannwhitneyu(one, other).pvalue
    assert p > UNLIKELY, f"{kind}: p = {p:.2g}, medians {np.median(one):.4f} and {np.median(other):.4f} s"


@contextmanager
def waiting(seconds: float) -> Iterator[None]:
    """An answer waits where the device holds one window, and not where it holds the other."""
    real, held = LocalLearner.answer, other_rows()[AT]

    def answer(self: LocalLearner, *arguments: Any) -> Any:
        if (self._seen == held).all(axis=1).any():
            time.sleep(seconds)
        return real(self, *arguments)

    with patch.object(LocalLearner, "answer", answer):
        yield


@pytest.mark.parametrize(
    ("seconds", "is_on_grid", "is_found"), [(0.003, False, True), (0.1, True, True), (0.003, True, False)]
)
def test_a_wait_that_depends_on_a_window_is_found_unless_the_grid_hides_it(
    seconds: float, is_on_grid: bool, is_found: bool, folder: Path
) -> None:
    held_back = nullcontext() if is_on_grid else patch.object(TimeGrid, "on_time", lambda *_: nullcontext())
    with waiting(seconds), held_back:
        one, other = times_of(folder, "evaluate.covariance", grid=on_real_time)
    p = mannwhitneyu(one, other).pvalue
    assert (p <= UNLIKELY) == is_found, (
        f"p = {p:.2g}, medians {np.median(one):.4f} and {np.median(other):.4f} s"
    )
