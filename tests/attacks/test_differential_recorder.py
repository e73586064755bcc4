"""Two devices that differ in one window leave the same behind on the aggregator's road, whatever they are asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from informed_questions import InformedQuestions, Pair
from two_worlds import PROFILE, World, compare, windows

pytestmark = pytest.mark.edge


def test_worlds_that_do_not_differ_are_seen_alike(tmp_path: Path) -> None:
    """Otherwise every difference could be the recorder's own."""
    rows = windows(5)
    pair = Pair(rows, 39, rows[39].copy(), np.ones(6))
    asker = InformedQuestions(pair, PROFILE, np.random.default_rng(3), "same")
    both = [World(tmp_path / str(side), one, pair.unit) for side, one in enumerate(pair.world)]
    for _ in range(30):
        asked = asker.next()
        (one, _), (other, _) = (world.play(asked) for world in both)
        assert one == other
        assert any(one.values())
    for world in both:
        world.close()


@pytest.mark.xfail(strict=False, reason="until refusals are codes and answers masked zeros (learner)")
def test_nothing_that_leaves_tells_two_windows_apart(tmp_path: Path) -> None:
    found = compare(tmp_path, 300, seed=1)
    assert not found.differences, "\n".join(map(str, found.differences))
