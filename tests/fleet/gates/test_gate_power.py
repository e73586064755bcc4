"""The preview says what canaries would see, and draws them by lot within strata."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from gate_worlds import WINDOWS_AN_HOUR, alarms, arms, rates, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.gates.arms import Arms
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.power import PowerLine, power
from fleet.gates.pretended import draw_canaries, draw_fleet, score_sums
from fleet.gates.scores import score
from fleet.gates.strata import LEAST_DEVICES, draw_order, number_strata
from fleet.rollouts.plans import GroupPlan
from fleet.rollouts.targets import Meant, assign_groups
from protocol.names import DeviceId

PLAN = GatePlan()


def fleet(devices: int, seed: int = 1) -> Arms:
    """A fleet's own past: nobody on a release."""
    rng = np.random.default_rng(seed)
    own, latency = rates(devices, rng), rng.normal(7, 0.4, devices)
    past, now = 4.0 * WINDOWS_AN_HOUR, float(WINDOWS_AN_HOUR)
    found = arms(
        0,
        devices,
        shown(
            devices,
            hours=4.0,
            windows=past,
            judged=past,
            over=alarms(own, 4.0, rng),
            log_latency=latency,
            sight=0.8,
        ),
        shown(
            devices,
            windows=now,
            judged=now,
            over=alarms(own, 1.0, rng),
            log_latency=latency + rng.normal(0, 0.05, devices),
            sight=0.8 + rng.normal(0, 0.03, devices),
        ),
    )
    return replace(found, stratum=np.arange(devices) % 3)


def lines(canaries: int, devices: int = 200, **more: int) -> dict[Metric, PowerLine]:
    found = power(fleet(devices), PLAN, canaries=canaries, soak_s=3600, groups=3, **more)
    return {line.metric: line for line in found}


def test_twenty_canaries_see_what_five_cannot_be_relied_on_to_see() -> None:
    few, many = lines(5), lines(20)
    assert many[Metric.LATENCY_P99].low > 0.9
    assert many[Metric.SIGHT].low > 0.9
    assert few[Metric.ANOMALY_RATE].high < many[Metric.ANOMALY_RATE].high
    assert few[Metric.ANOMALY_RATE].low < 0.6
    assert "5 canaries: anomaly rate × 2" in few[Metric.ANOMALY_RATE].words
    assert "within 1 h" in few[Metric.ANOMALY_RATE].words or few[Metric.ANOMALY_RATE].high >= 0.6
    assert Metric.MEMORY not in few  # no device told it
    assert Metric.RESTARTS not in few


@pytest.mark.parametrize(("canaries", "devices"), [(1, 2), (1, 200), (5, 5), (50, 40), (3, 12)])
def test_any_number_of_canaries_has_an_answer(canaries: int, devices: int) -> None:
    for line in lines(canaries, devices, draws=60).values():
        assert 0 <= line.low <= line.high <= 1
        assert line.canaries == canaries
        assert str(canaries) in line.words


def test_the_same_fleet_and_seed_give_the_same_lines() -> None:
    assert lines(5, 60, draws=50) == lines(5, 60, draws=50)


def test_sums_of_all_draws_at_once_are_those_of_one_after_the_other() -> None:
    rng = np.random.default_rng(2)
    told = draw_fleet(Metric.ANOMALY_RATE, fleet(40), 5, rng)
    assert told is not None
    rows = draw_canaries(told.stratum, 6, 12, rng)
    moved = np.where(rng.random(rows.shape) < 0.5, told.changes[rows[::-1]], rng.normal(0, 3, rows.shape))
    naive = []
    for row, values in zip(rows, moved, strict=True):
        changes, is_canary = told.changes.copy(), np.zeros(40, dtype=bool)
        changes[row], is_canary[row] = values, True
        scores = score(changes, is_canary, told.stratum)
        naive.append(float(scores.score[scores.is_canary].sum()))
    found = score_sums(told, rows, moved)
    np.testing.assert_allclose(found - found[0], np.array(naive) - naive[0], atol=1e-12)


def test_canaries_that_will_not_tell_are_counted_on_at_the_lower_end() -> None:
    whole, quiet = fleet(200), fleet(200)
    silent = np.where(np.arange(200) % 4 == 0, np.nan, quiet.after.log_latency)
    quiet = replace(quiet, after=replace(quiet.after, log_latency=silent))
    plan = GatePlan(metrics=(Metric.LATENCY_P99,))
    (all_told,), (some_told,) = (
        power(past, plan, canaries=4, soak_s=3600, groups=3) for past in (whole, quiet)
    )
    assert some_told.low < all_told.low


def test_a_fleet_without_a_past_and_a_group_without_a_soak_have_no_power() -> None:
    nothing = replace(fleet(30), before=shown(30, hours=0.0))
    assert power(nothing, PLAN, canaries=5, soak_s=3600) == ()
    assert power(fleet(30), PLAN, canaries=5, soak_s=0) == ()
    assert power(fleet(30), PLAN, canaries=0, soak_s=3600) == ()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=80), st.randoms()
)
def test_strata_are_large_enough_and_the_same_in_any_order(
    rows: list[tuple[str, str]], order: object
) -> None:
    found = number_strata(rows)
    sizes = sorted(Counter(found.tolist()).values())
    assert all(size >= LEAST_DEVICES for size in sizes[1:]) or sizes[0] < LEAST_DEVICES
    assert sum(size < LEAST_DEVICES for size in sizes) <= 1  # what is left over everywhere
    back = number_strata(rows[::-1])
    assert back[::-1].tolist() == found.tolist()
    assert all(
        found[a] == found[b] for a, left in enumerate(rows) for b, right in enumerate(rows) if left == right
    )


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=8), st.integers(1, 60))
def test_any_beginning_of_the_order_takes_its_share_of_every_stratum(lot: str, taken: int) -> None:
    devices = [f"press-{n}" for n in range(60)]
    stratum = [0] * 30 + [1] * 20 + [2] * 10
    order = draw_order(lot, devices, stratum).tolist()
    assert sorted(order) == list(range(60))
    got = Counter(stratum[row] for row in order[:taken])
    for code, size in ((0, 30), (1, 20), (2, 10)):
        assert abs(got[code] - taken * size / 60) <= 2


def draw_naively(lot: str, devices: list[str], stratum: list[int]) -> list[int]:
    """Device by device: its place in its stratum, by hash, as a share of it; what is drawn fast must be this."""
    marks = {name: sha256(f"{lot}\n{name}".encode()).digest() for name in devices}
    places = []
    for row, (name, code) in enumerate(zip(devices, stratum, strict=True)):
        inside = [other for other, of in zip(devices, stratum, strict=True) if of == code]
        before = sum(marks[other] < marks[name] for other in inside)
        begin = int.from_bytes(sha256(f"{lot}\n\n{code}".encode()).digest()[:8], "big") / 2**64
        places.append(((before + begin) / len(inside), code, marks[name], row))
    return [row for *_, row in sorted(places)]


@settings(max_examples=30)
@given(st.text(max_size=8), st.lists(st.integers(0, 4), max_size=40))
def test_the_order_is_the_one_that_is_drawn_device_by_device(lot: str, stratum: list[int]) -> None:
    devices = [f"press-{n}" for n in range(len(stratum))]
    assert draw_order(lot, devices, stratum).tolist() == draw_naively(lot, devices, stratum)


def test_every_device_is_as_likely_the_first_canary_of_some_rollout() -> None:
    devices = [f"press-{n}" for n in range(20)]
    stratum = [0] * 10 + [1] * 10
    first = Counter(draw_order(f"ro-{n}", devices, stratum)[0] for n in range(2000))
    assert min(first[row] for row in range(20)) > 60  # 100 each in the mean
    assert max(first.values()) < 150


def test_the_canary_of_a_rollout_has_its_share_of_every_hardware_and_site() -> None:
    places = {DeviceId(f"press-{n}"): ("rpi4" if n % 2 else "rpi5", f"site-{n // 40}") for n in range(120)}
    groups = [GroupPlan(percentage=10), GroupPlan(percentage=100)]

    def meant(names: list[DeviceId]) -> Meant:
        return replace(Meant.alike(names), places=[places[name] for name in names])

    for rollout in ("ro-1", "ro-2"):
        canary, rest = assign_groups(rollout, meant(list(places)), groups)
        assert sorted(Counter(places[device] for device in canary).values()) == [2] * 6
        assert sorted((*canary, *rest)) == sorted(places)
    assert (
        assign_groups("ro-1", meant(list(places)[::-1]), groups)[0]
        == assign_groups("ro-1", meant(list(places)), groups)[0]
    )
