"""The laboratory of the gates: its worlds are what their names say, its evidence is what a database would hold, its rivals are what they were."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fleet.gates.power import _wilson

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from gates_lab import pieces
from gates_lab.pieces import Done, Work, do, plan_work
from gates_lab.play import Tally, play
from gates_lab.releases import EDGE, GOOD, RELEASES, Release, give
from gates_lab.rivals import RATIO_GATES, Newest, ratio_stops
from gates_lab.showing import show
from gates_lab.worlds import (
    BINS_PER_HOUR,
    HARSH,
    HOMOGENEOUS,
    REAL,
    WINDOWS_PER_BIN,
    WORLDS,
    Course,
    World,
    draw_course,
)
from rollout_gates import PARTS


def course_of(world: World, *, rollouts: int = 2, devices: int = 12, hours: int = 2) -> Course:
    rng = np.random.Generator(np.random.SFC64(1))
    return draw_course(
        world, rng, rollouts=rollouts, devices=devices, bins=hours * BINS_PER_HOUR, start=BINS_PER_HOUR
    )


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_world_alarms_as_often_as_it_says(world: World) -> None:
    course = course_of(replace(world, rate_spread=0.0, weather=0.0, day=0.0, walk=0.0), devices=300)
    assert course.over.mean() / WINDOWS_PER_BIN == pytest.approx(world.rate, rel=0.1)


def test_alarms_of_real_machines_come_in_bursts_and_those_of_harsh_ones_in_episodes() -> None:
    spread = {}
    for world in WORLDS.values():
        over = course_of(replace(world, rate_spread=0.0, weather=0.0, day=0.0), devices=300).over.astype(
            float
        )
        minutes = over.reshape(*over.shape[:2], -1, 10).sum(axis=-1)
        spread[world.name] = minutes.var() / minutes.mean()
    assert spread["homogeneous"] == pytest.approx(1, abs=0.1)
    assert spread["real"] == pytest.approx(1 + 29 * 0.05, rel=0.25)
    assert spread["harsh"] > 2 * spread["real"]


def test_a_span_shows_what_was_heard_of_it_and_had_arrived() -> None:
    course = course_of(HARSH)
    lag = np.zeros((2, 12), np.int64)
    lag[0, 3] = 20
    heard = np.ones_like(course.heard)
    heard[0, 4, 130:150] = False
    course = replace(course, lag=lag, heard=heard)
    shown = show(course, 120, 180)
    assert shown.hours[0, 0] == 0.5
    assert shown.hours[0, 3] == pytest.approx(40 / 120)
    assert shown.hours[0, 4] == pytest.approx(40 / 120)
    kept = np.r_[120:130, 150:180]
    hours = kept / BINS_PER_HOUR
    assert shown.memory_slope[0, 4] == pytest.approx(
        np.polyfit(hours, course.log_memory[0, 4, kept], 1)[0], rel=1e-4
    )
    assert shown.log_latency[0, 4] == pytest.approx(course.log_latency[0, 4, kept].mean(), rel=1e-6)
    assert shown.over[0, 3] == np.minimum(course.over, WINDOWS_PER_BIN - course.unjudged)[0, 3, 120:160].sum()


def test_a_span_that_begins_later_for_a_device_shows_nothing_of_before() -> None:
    course = course_of(HARSH)
    starts = np.zeros((2, 12), np.int64)
    starts[1, 5] = 30
    shown, later = show(course, 120, 180, starts), show(course, 150, 180)
    assert shown.windows[1, 5] == later.windows[1, 5]
    assert shown.over[1, 5] == later.over[1, 5]
    assert shown.restarts[1, 5] == later.restarts[1, 5]
    assert shown.over[1, 6] == show(course, 120, 180).over[1, 6]


def test_the_sight_that_a_device_tells_is_that_of_its_last_200_probes_under_the_judge_in_force() -> None:
    course = course_of(REAL)
    commits = np.full((2, 12), 100)
    given = give(GOOD, course, commits, np.random.default_rng(0))
    for at in (60, 99, 101, 110, 139, 140, 141, 200):
        since = 100 if at >= 100 else 0
        seen = course.probes_seen[0, 0, max(since, at - 39) : at + 1]
        assert given.sight[0, 0, at] == pytest.approx(seen.mean() / 5)
    assert np.isnan(given.sight[0, 0, 100])


def test_a_release_does_what_it_is_called_from_its_commit_on_and_nothing_before() -> None:
    course = course_of(HOMOGENEOUS, devices=300)
    release = Release(
        name="all of it", latency=1.5, rate=3.0, unjudged=10.0, drift=2.0, leak_per_hour=0.2, sight=0.5
    )
    given = give(release, course, np.full((2, 300), 120), np.random.default_rng(0))
    before, after, was = show(given, 0, 120), show(given, 160, 240), show(course, 160, 240)
    np.testing.assert_array_equal(before.over, show(course, 0, 120).over)
    assert (after.over.sum() / was.over.sum()) == pytest.approx(3, rel=0.05)
    assert (after.unjudged.sum() / was.unjudged.sum()) == pytest.approx(10, rel=0.1)
    assert np.exp((after.log_latency - was.log_latency).mean()) == pytest.approx(1.5, rel=0.01)
    assert np.exp((after.log_drift - was.log_drift).mean()) == pytest.approx(2, rel=0.01)
    assert after.memory_slope.mean() == pytest.approx(0.2, rel=0.1)
    assert (after.sight / was.sight).mean() == pytest.approx(0.5, rel=0.05)
    crashed = give(
        Release(name="crash", crashes_per_hour=30.0),
        course,
        np.zeros((2, 300), np.int64),
        np.random.default_rng(0),
    )
    assert show(crashed, 0, 240).restarts.min() >= 1
    assert show(crashed, 200, 240).hours.max() == 0


def test_the_ratio_gates_over_many_rollouts_are_the_ratio_gates_of_one() -> None:
    course = course_of(REAL, rollouts=6, devices=25)
    canaries, controls = (
        course.pick(slice(0, 5), slice(120, 180)),
        course.pick(slice(5, None), slice(120, 180)),
    )
    before = course.pick(slice(0, 5), slice(0, 120))
    latency_ratio, rate_ratio, _, _ = gates = RATIO_GATES["4dec79f, 1.15 x and 1.5 x control, no floor"]
    assert latency_ratio is not None
    assert rate_ratio is not None
    found = ratio_stops(Newest.of(canaries), Newest.of(controls), Newest.of(before), gates, 5)
    for rollout in range(6):
        is_stopped = False
        for end in range(2, 61):
            new = slice(max(0, end - 20), end)
            latency = np.exp(canaries.log_latency[rollout, :, new]).mean()
            control = np.exp(controls.log_latency[rollout, :, new]).mean()
            over, trials = canaries.over[rollout, :, new].sum(), 5 * 30 * (min(end, 20))
            rates = controls.over[rollout, :, new].mean() / WINDOWS_PER_BIN
            share, z = over / trials, 1.6448536269514722
            spread = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
            lower = (share + z * z / (2 * trials) - spread) / (1 + z * z / trials)
            is_stopped |= latency > latency_ratio * control or lower > rate_ratio * rates
        assert found[rollout] == is_stopped


def stopped(world: World, releases: Sequence[Release], rollouts: int) -> dict[tuple[str, int], Tally]:
    trials = play(world, releases, (5, 20), rollouts=rollouts, seed=7, rivals=False)
    return {(trial.release, trial.canaries): trial.tally for trial in trials}


def test_the_gates_keep_what_they_promise_in_a_small_calibration() -> None:
    """A handful of the rollouts that `make prove` judges: all metrics, all looks, the plan's own level."""
    bad = [RELEASES["latency +30 %"], RELEASES["blind: sight x .2"]]
    good = stopped(HARSH, [GOOD, EDGE], 8)
    assert sum(tally.stops for tally in good.values()) <= 2  # of 32; 5 % would be 1.6, and less is expected
    seen = stopped(REAL, bad, 4)
    assert all(tally.stops == 4 for tally in seen.values())
    assert seen["blind: sight x .2", 20].stops_until(2) == 4


@pytest.mark.parametrize("draws", [7, 50, 100, 600])
def test_a_share_that_was_always_or_never_leaves_its_own_end_open(draws: int) -> None:
    """Rounding had put the upper end just below 1, so that a power of 1 lay outside of its interval."""
    assert _wilson(1.0, draws, 1) == 1.0
    assert _wilson(0.0, draws, -1) == 0.0
    assert _wilson(1.0, draws, -1) <= 0.93 + 0.07 * (draws < 50)


def test_a_piece_that_is_done_is_kept_and_not_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(part="extensions", name="homogeneous", sizes=(5,), rollouts=1, seed=0)
    done = do(work, tmp_path / "kept")
    assert [trial.release for trial in done.trials] == [GOOD.name, EDGE.name]

    def refuse(work: Work) -> Done:
        raise AssertionError(f"played {work}")

    monkeypatch.setattr(pieces, "_play", refuse)
    assert do(work, tmp_path / "kept") == done
    for other in (replace(work, seed=1), replace(work, part="passes"), replace(work, sizes=(20,))):
        with pytest.raises(AssertionError, match="played"):
            do(other, tmp_path / "kept")


def test_an_interrupted_run_has_as_many_rollouts_of_each_cell() -> None:
    planned = [work for part in PARTS for work in plan_work(part, 120)]
    assert len(set(planned)) == len(planned)
    rounds = [work.seed for work in plan_work("extensions", 120)]
    assert rounds == sorted(rounds)
    for part in ("good", "bad", "passes", "whole", "situations"):
        of = Counter[tuple[str, tuple[int, ...]]]()
        for work in plan_work(part, 120):
            of[work.name, work.sizes] += work.rollouts
        assert set(of.values()) == {120}, part
