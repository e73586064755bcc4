"""Patience: counted in seconds of a quiet machine, so that a slow one is not taken for one that hangs."""

from __future__ import annotations

import pytest

from simulations.patience import SLOWEST, Patience, measure_pace, slowness
from simulations.scenario import Scenario, at_pace


class Wall:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lasts_s(limit_s: float, slow: float) -> float:
    """How long a patience of `limit_s` lasts on the wall of a machine that is `slow` times slower."""
    wall = Wall()
    patience = Patience(limit_s, clock=wall, slowness=lambda: slow)
    while not patience.is_used_up():
        wall.now += 1.0
        assert wall.now < 1e4, "it never ends"
    return wall.now


@pytest.mark.parametrize(("slow", "wall_s"), [(1.0, 60.0), (5.0, 300.0)])
def test_a_machine_that_is_slower_is_given_as_much_more_time(slow: float, wall_s: float) -> None:
    assert lasts_s(60.0, slow) == pytest.approx(wall_s, abs=1.0)


def test_what_slows_a_machine_down_for_a_while_counts_for_that_while() -> None:
    wall, slow = Wall(), [9.0]
    patience = Patience(10.0, clock=wall, slowness=lambda: slow[0])
    for wall.now in range(1, 46):
        assert not patience.is_used_up()
    slow[0] = 1.0
    while not patience.is_used_up():
        wall.now += 1.0
    assert 50 <= wall.now <= 70


def test_this_machine_has_a_pace_within_its_limits() -> None:
    assert slowness() >= 1.0
    assert 1.0 <= measure_pace(lambda _: None) <= SLOWEST


def test_on_a_slow_machine_deadlines_follow_and_machine_time_is_stretched_twofold_at_most() -> None:
    usual, slow = Scenario(), at_pace(Scenario(), 5.0)
    assert slow.family.rounds.join_timeout_s == 5 * usual.family.rounds.join_timeout_s
    assert slow.family.rounds.deadline_s == 5 * usual.family.rounds.deadline_s
    assert slow.family.secure_sum.stage_deadline_s == 5 * usual.family.secure_sum.stage_deadline_s
    assert slow.family.secure_sum.grace_s == 5 * usual.family.secure_sum.grace_s
    assert slow.machines.speed == usual.machines.speed / 2
    assert slow.watch_s * slow.machines.speed == usual.watch_s * usual.machines.speed
    assert slow.rollout.soak_s == 2 * usual.rollout.soak_s
    assert slow.patience_s == usual.patience_s


def test_on_a_quiet_machine_nothing_is_stretched() -> None:
    assert at_pace(Scenario(), 1.0) == Scenario()
