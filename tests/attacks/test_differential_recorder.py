"""Two devices that differ in one window leave the same behind on the aggregator's road, whatever they are asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from informed_questions import InformedQuestions, Pair
from oracles import ORACLES
from secrecy_statistics import chi_squared_of_bytes
from two_worlds import PROFILE, World, compare, compare_lies, windows, without_parameter_limits

from protocol.refusals import RefusalCode, read_refusal

pytestmark = pytest.mark.edge


def test_worlds_that_do_not_differ_are_seen_alike(folder: Path) -> None:
    """Otherwise every difference could be the recorder's own."""
    rows = windows(5)
    pair = Pair(rows, 39, rows[39].copy(), np.ones(6))
    asker = InformedQuestions(pair, PROFILE, np.random.default_rng(3), "same")
    both = [World(folder / str(side), one, pair.unit) for side, one in enumerate(pair.world)]
    for _ in range(30):
        asked = asker.next()
        (one, _), (other, _) = (world.play(asked) for world in both)
        assert one == other
        assert any(one.values())
    for world in both:
        world.close()


def test_nothing_that_leaves_tells_two_windows_apart_whatever_the_parameters(folder: Path) -> None:
    with without_parameter_limits():
        found = compare(folder, 120, seed=1)
    assert not found.differences, "\n".join(map(str, found.differences))
    # Most of them were answered, so it was not refusals that were compared.
    assert found.sums > 0.4 * found.questions
    assert len(set(found.masked)) == len(found.masked)
    words = b"".join(found.masked)
    assert abs(chi_squared_of_bytes(np.frombuffer(words[: len(words) // 4 * 4], np.uint32))) < 5


def test_no_refusal_tells_two_windows_apart_and_every_code_is_reached(folder: Path) -> None:
    told, asked = compare_lies(folder / "lies"), compare(folder / "asked", 110, seed=3)
    assert not told.differences + asked.differences, "\n".join(map(str, told.differences + asked.differences))
    assert asked.sums > 15
    assert {read_refusal(words) for words in told.refusals | asked.refusals} == set(RefusalCode)


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.__name__)
def test_an_oracle_that_is_put_back_is_found(
    oracle: Callable[[], AbstractContextManager[None]], folder: Path
) -> None:
    with without_parameter_limits(), oracle():
        found = compare(folder, 400, seed=6, until_found=True)
    assert found.differences, f"{found.questions} questions did not find it: {oracle.__doc__}"
