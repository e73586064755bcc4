"""The monitor says DRIFTED once and RECOVERED once, names what moved, and survives a restart."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.drift.monitor import DriftMonitor, DriftPhase, DriftSettings, DriftVerdict
from models.drift.reference import fit_reference
from models.errors import DriftStateError

pytestmark = pytest.mark.edge

SENSORS = 8
NAMES = tuple(f"s{i}" for i in range(SENSORS))
Float = NDArray[np.float64]


def world(seed: int, windows: int, rho: float = 0.3) -> tuple[Float, Float]:
    """Healthy windows (n, F) and log-normal scores (n,)."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((windows, SENSORS + 1))
    for i in range(1, windows):
        x[i] = rho * x[i - 1] + (1 - rho**2) ** 0.5 * x[i]
    return x[:, :-1], np.exp(0.4 * x[:, -1])


def monitor(seed: int = 0, windows: int = 400, **settings: float) -> DriftMonitor:
    return DriftMonitor(fit_reference(*world(seed, windows)), DriftSettings(**settings), sensors=NAMES)  # type: ignore[arg-type]  # numbers for numeric settings


def watch(watcher: DriftMonitor, rows: Float, scores: Float) -> list[bool]:
    states = []
    for row, score in zip(rows, scores, strict=True):
        watcher.update(row, float(score))
        states.append(watcher.verdict().drifted)
    return states


def first_found(watcher: DriftMonitor, rows: Float, scores: Float) -> tuple[int, DriftVerdict]:
    """The window with which a change was found, and what was said of it."""
    earlier = watcher.reports
    for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
        watcher.update(row, float(score))
        if watcher.reports > earlier:
            return i, watcher.verdict()
    raise AssertionError("nothing was found")


def turns(states: list[bool]) -> int:
    return int(np.abs(np.diff(np.asarray([False, *states], int))).sum())


def test_a_healthy_world_gives_no_drift() -> None:
    watcher = monitor()
    assert not any(watch(watcher, *world(1, 1500)))
    assert 0 < watcher.verdict().score < 1
    assert watcher.verdict().findings == ()


@pytest.mark.parametrize(("commissioning", "rho"), [(120, 0.0), (120, 0.5), (400, 0.7)])
def test_false_drift_is_as_rare_as_wanted_even_with_autocorrelated_windows(
    commissioning: int, rho: float
) -> None:
    wrong = 0
    for seed in range(20):
        rows, scores = world(100 + seed, commissioning + 1000, rho)
        watcher = DriftMonitor(fit_reference(rows[:commissioning], scores[:commissioning]))
        wrong += any(watch(watcher, rows[commissioning:], scores[commissioning:]))
    # Wanted: 1 - exp(-1000/20000) = 5 % of 20 runs. Five would have a chance below 1 in 300.
    assert wrong <= 4


CHANGES = {
    "mean": lambda x: x + 1.0 * (np.arange(SENSORS) == 3),
    "scale": lambda x: x * np.where(np.arange(SENSORS) == 3, 2.5, 1.0),
    "narrow": lambda x: x * np.where(np.arange(SENSORS) == 3, 0.2, 1.0),
    "stuck": lambda x: np.where(np.arange(SENSORS) == 3, 0.5, x),
    "far out": lambda x: np.where(np.arange(SENSORS) == 3, 12.0 + x, x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_change_is_found_and_laid_to_the_right_sensor(change: str) -> None:
    watcher = monitor()
    rows, scores = world(2, 400)
    watch(watcher, rows[:100], scores[:100])
    found, verdict = first_found(watcher, CHANGES[change](rows[100:]), scores[100:])
    assert verdict.drifted
    assert {finding.sensor for finding in verdict.findings} == {"s3"}
    worst = verdict.findings[0]
    assert verdict.score == pytest.approx(worst.statistic / worst.threshold)
    states = watch(watcher, CHANGES[change](rows[100 + found + 1 :]), scores[100 + found + 1 :])
    assert (turns(states), watcher.reports, watcher.phase) == (2, 1, DriftPhase.SETTLED), "news once"


def test_a_rising_score_alone_is_drift_and_a_falling_one_is_not() -> None:
    rows, scores = world(3, 400)
    rising, falling = monitor(), monitor()
    assert {f.sensor for f in first_found(rising, rows, scores * 2.5)[1].findings} == {"score"}
    assert not any(watch(falling, rows, scores / 10))


def test_it_says_drifted_once_and_recovered_once() -> None:
    watcher = monitor()
    rows, scores = world(4, 3000)
    rows[200:260] += 1.5
    states = watch(watcher, rows, scores)
    assert turns(states) == 2
    assert not any(states[:200])
    assert (watcher.phase, watcher.reports) == (DriftPhase.HOME, 1)


def test_reset_begins_a_new_normal() -> None:
    watcher = monitor()
    rows, scores = world(5, 1000)
    first_found(watcher, rows[:300] + 2.0, scores[:300])
    assert watcher.is_away
    watcher.reset(fit_reference(rows[300:500] + 2.0, scores[300:500]))
    assert watcher.verdict().score == 0
    assert not any(watch(watcher, rows[500:] + 2.0, scores[500:]))


def test_windows_without_a_score_are_skipped() -> None:
    with_gaps, without = monitor(), monitor()
    rows, scores = world(6, 80)
    watch(without, rows, scores)
    for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
        if i % 8 == 0:
            with_gaps.update(row, float("nan"))
        with_gaps.update(row, float(score))
    assert with_gaps.verdict().windows == pytest.approx(80, abs=16)
    assert np.isfinite(with_gaps.verdict().score)


def test_a_sensor_that_delivers_nothing_is_told_as_missing_and_as_nothing_else() -> None:
    watcher = monitor()
    rows, scores = world(15, 1500)
    rows[100:1300, 5] = np.nan
    found, verdict = first_found(watcher, rows[:1300], scores[:1300])
    assert 100 + 12 <= found + 1 <= 100 + 12 + 8
    (finding,) = verdict.findings
    assert (finding.detector, finding.sensor, finding.threshold) == ("missing", "s5", 12)
    watch(watcher, rows[found + 1 : 1300], scores[found + 1 : 1300])
    assert (watcher.phase, watcher.reports) == (DriftPhase.SETTLED, 1)
    watch(watcher, rows[1300:], scores[1300:])
    assert (watcher.phase, watcher.reports) == (DriftPhase.HOME, 1), "it ends by itself"


def test_all_but_one_missing_sensor_is_still_watched() -> None:
    watcher = monitor()
    rows, scores = world(16, 600)
    rows[50:, 2] = np.nan
    rows[300:, 6] += 1.5
    found, first = first_found(watcher, rows, scores)
    assert [(finding.detector, finding.sensor) for finding in first.findings] == [("missing", "s2")]
    _, second = first_found(watcher, rows[found + 1 :], scores[found + 1 :])
    assert second.is_further
    assert {finding.sensor for finding in second.findings} == {"s6"}


def test_values_that_flicker_are_no_finding() -> None:
    watcher, random = monitor(), np.random.default_rng(17)
    rows, scores = world(18, 3000)
    rows[random.random(rows.shape) < 0.05] = np.nan
    assert not any(watch(watcher, rows, scores))


def test_a_restart_in_the_middle_of_a_gap_takes_nothing_back() -> None:
    rows, scores = world(19, 300)
    rows[100:, 1] = np.nan
    before, after = monitor(), monitor()
    watch(before, rows[:203], scores[:203])
    after.restore(before.state())
    watch(after, rows[203:], scores[203:])
    assert (before.phase, after.phase, after.reports) == (DriftPhase.SETTLED, DriftPhase.SETTLED, 1)


def test_a_restart_goes_on_exactly_where_it_stopped() -> None:
    rows, scores = world(7, 900)
    rows[250:600] += 0.8
    rows[500:600] += 1.5
    for cut in (301, 420, 533, 620):  # in the middle of a block: drifting, settled, changed, on the way back
        through, before, after = monitor(), monitor(), monitor()
        expected = watch(through, rows, scores)
        watch(before, rows[:cut], scores[:cut])
        after.restore(before.state())
        assert (after.phase, after.reports) == (before.phase, before.reports)
        assert watch(after, rows[cut:], scores[cut:]) == expected[cut:]
        assert after.verdict() == through.verdict()
        assert after.state() == through.state()


def test_a_saved_state_stays_small() -> None:
    assert len(monitor().state()) < 200 * SENSORS + 600


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "other reference", "other settings"])
def test_a_state_that_is_damaged_or_foreign_is_refused_and_changes_nothing(spoil: str) -> None:
    source = monitor()
    watch(source, *world(8, 100))
    state = source.state()
    match spoil:
        case "flip":
            state = state[:200] + bytes([state[200] ^ 1]) + state[201:]
        case "cut":
            state = state[:-30]
        case "empty":
            state = b""
        case "other reference":
            state = monitor(seed=9).state()
        case "other settings":
            state = monitor(run_length=1000.0).state()
    target = monitor()
    watch(target, *world(10, 50))
    unchanged = target.state()
    with pytest.raises(DriftStateError):
        target.restore(state)
    assert target.state() == unchanged


def test_a_state_of_an_older_build_is_refused() -> None:
    body = msgspec.msgpack.encode({"format": 1, "fingerprint": "", "counters": {}, "arrays": {}})
    with pytest.raises(DriftStateError, match="not one this build knows"):
        monitor().restore(body + zlib.crc32(body).to_bytes(4, "little"))


def test_a_stuck_sensor_is_told_within_one_block_of_its_third_repetition() -> None:
    watcher = monitor(run_length=1000.0)
    rows, scores = world(12, 200)
    rows[100:, 5] = rows[100, 5]
    found, verdict = first_found(watcher, rows, scores)
    assert found - 100 + 1 <= 1 + 4 + 8
    assert verdict.findings[0].detector in {"stuck", "spread down"}


def test_the_monitor_looks_closer_while_something_builds_up() -> None:
    saved = []
    for seed in range(13, 21):
        rows, scores = world(seed, 400, rho=0.0)
        rows[100:] += 0.8 * (np.arange(SENSORS) == 3)
        coarse, close = monitor(closer_above=2.0), monitor()
        saved.append(watch(coarse, rows, scores).index(True) - watch(close, rows, scores).index(True))
    assert min(saved) >= 0
    assert 0 < float(np.mean(saved)) < 7  # blocks of six instead of eight: a window on average


def test_sensor_names_must_fit_the_reference() -> None:
    with pytest.raises(DriftStateError, match="1 sensor names for a reference of 8"):
        DriftMonitor(fit_reference(*world(0, 100)), sensors=("a",))


def test_a_machine_that_never_recovers_says_how_far_it_is_and_what_changes_further() -> None:
    watcher = monitor()
    rows, scores = world(21, 3000)
    rows[100:, 3] += 2.0
    rows[1000:, 6] += 1.5
    rows[2000:, 3] += 2.0
    found, verdict = first_found(watcher, rows, scores)
    assert (found < 150, verdict.is_further, verdict.severity) == (True, False, None)
    told = []
    for i in range(found + 1, 3000):
        reports = watcher.reports
        watcher.update(rows[i], float(scores[i]))
        if watcher.reports > reports:
            told.append((i, watcher.verdict()))
        if i == 900:
            assert watcher.verdict().severity == pytest.approx(2.0, abs=0.5)
    (second, other), (third, same) = told
    assert 1000 < second < 1060
    assert {finding.sensor for finding in other.findings} == {"s6"}
    assert 2000 < third < 2060
    assert {finding.sensor for finding in same.findings} == {"s3"}
    assert other.is_further
    assert same.is_further
    assert watcher.phase is DriftPhase.SETTLED
    assert watcher.verdict().severity == pytest.approx(4.0, abs=0.6)


def test_what_came_back_by_itself_is_no_news_another_time_but_further_is() -> None:
    watcher = monitor()
    rows, scores = world(22, 3000)
    rows[200:500, 3] += 2.0
    rows[1000:1300, 3] += 2.0
    rows[2000:2300, 3] += 2.0
    rows[2600:2900, 3] += 6.0
    watch(watcher, rows[:2500], scores[:2500])
    assert (watcher.reports, watcher.phase) == (1, DriftPhase.HOME)
    watch(watcher, rows[2500:], scores[2500:])
    assert watcher.reports == 2


def test_shapes_name_the_sensor_that_differs_and_chance_explains_the_others() -> None:
    watcher = monitor()
    rows, scores = world(23, 800, rho=0.0)
    rows[400:, 5] *= 0.3
    watch(watcher, rows, scores)
    shapes = watcher.shapes()
    assert len(shapes) == SENSORS
    assert shapes[0].sensor == "s5"
    assert shapes[0].psi > 8 * shapes[0].psi_by_chance
    assert shapes[0].ks > 2 * shapes[0].ks_by_chance
    assert np.mean([each.psi / each.psi_by_chance for each in shapes[1:]]) == pytest.approx(1, abs=0.6)
    assert np.mean([each.ks / each.ks_by_chance for each in shapes[1:]]) == pytest.approx(1, abs=0.4)
    assert len(watcher.shapes(3)) == 3
