"""Commissioning: it survives power cuts, lasts until it has seen enough, says how far it is, and can be asked for again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent import commissioning as module
from edge_agent.clipping import ClipWatch
from edge_agent.commissioning import Commissioning
from edge_agent.detection_memory import DetectionMemory
from edge_agent.kept_rows import open_stores
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from models.features import passthrough_spec, raw_spec
from models.sensors import SensorView
from models.standardiser import CLIP, fit_standardiser
from protocol.manifest import FeatureSpec

pytestmark = pytest.mark.edge

NAMES = tuple("abcdef")
SPEC = passthrough_spec(NAMES)
SETTINGS = DetectionSettings(commissioning_windows=60)


def healthy(count: int, seed: int = 0, width: int = len(NAMES)) -> np.ndarray:
    return (20 + 3 * np.random.default_rng(seed).normal(size=(count, width))).astype(np.float32)


class Machine:
    """A device that commissions; `cut_power` leaves what a disk has that was told to keep it."""

    def __init__(
        self,
        root: Path,
        settings: DetectionSettings = SETTINGS,
        spec: FeatureSpec = SPEC,
        clock_s: float = 0.0,
    ) -> None:
        self.root, self.settings, self.spec = root, settings, spec
        self.now_s = clock_s
        paths = StatePaths(root)
        self.stores = open_stores(paths, spec, BufferSettings())
        self.memory = DetectionMemory(paths, spec)
        self.commissioning = Commissioning(
            SensorView(spec), settings, self.memory, self.stores.gathered, lambda: self.now_s
        )

    def gather(self, rows: np.ndarray, *, every_s: float = 1.0) -> list[tuple[np.ndarray, float, float]]:
        done: list[tuple[np.ndarray, float, float]] = []
        for row in rows:
            self.now_s += every_s
            done = self.commissioning.gather(row, self.now_s, 1e9 + self.now_s) or done
            if self.commissioning.is_complete:
                self.commissioning.taken_up()
        return done

    def cut_power(self) -> Machine:
        return Machine(self.root, self.settings, self.spec, self.now_s)


def test_the_first_windows_become_the_scale_and_come_back_in_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    rows = healthy(60)
    assert machine.gather(rows[:59]) == []
    done = machine.gather(rows[59:])
    assert machine.commissioning.is_done
    assert [machine_s for _, machine_s, _ in done] == list(range(1, 61))
    np.testing.assert_allclose(np.stack([row for row, _, _ in done]), fit_standardiser(rows).apply(rows))
    assert machine.cut_power().commissioning.standardiser == machine.commissioning.standardiser


def test_five_power_cuts_in_the_middle_do_not_keep_a_device_from_getting_ready(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for windows in (29, 43, 35, 31, 38):
        machine.gather(healthy(windows, seed=windows))
        if machine.commissioning.is_done:
            break
        machine = machine.cut_power()
    assert machine.commissioning.is_done


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.integers(0, 50), min_size=30, max_size=60))
def test_each_cut_costs_at_most_a_few_windows(
    tmp_path_factory: pytest.TempPathFactory, lives: list[int]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("state"))
    for windows in lives:
        before = machine.commissioning.windows
        machine.gather(healthy(windows, seed=windows), every_s=0.1)
        if machine.commissioning.is_done:
            return
        machine = machine.cut_power()
        assert before + windows - machine.commissioning.windows < 10
    assert sum(lives) < 60 + 10 * len(lives)


def test_slow_windows_are_kept_one_by_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.gather(healthy(7), every_s=10.0)
    assert machine.cut_power().commissioning.windows == 7


def test_how_far_it_is_grows_and_ends_at_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DetectionSettings(commissioning_windows=20, commissioning_longest_windows=60))
    shares = []
    for row in np.cumsum(healthy(60) - 20, axis=0):  # a walk never settles
        shares.append(machine.commissioning.share)
        machine.gather(row[None])
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[10] == pytest.approx(0.45)
    assert 0.9 <= shares[20] < shares[59] < 1
    assert machine.commissioning.share == 1


def test_a_machine_that_wanders_is_commissioned_at_the_cap_and_called_provisional(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path)
    walk = np.cumsum(healthy(400, seed=1) - 20, axis=0)
    machine.gather(walk[:239])
    assert not machine.commissioning.is_done
    machine.gather(walk[239:260])
    assert machine.commissioning.standardiser is not None
    assert machine.commissioning.standardiser.is_provisional
    assert "commissioning_provisional" in caplog.text
    again = machine.cut_power().commissioning.standardiser
    assert again is not None
    assert again.is_provisional


def test_a_known_period_is_seen_whole_however_settled_the_windows_look(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DetectionSettings(commissioning_windows=60, period_s=500.0))
    machine.gather(healthy(200), every_s=1.0)
    assert not machine.commissioning.is_done
    again = machine.cut_power()
    again.gather(healthy(305, seed=2), every_s=1.0)
    assert again.commissioning.is_done


def test_a_long_period_costs_no_more_memory_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHERED_BYTES", 100 * 24)
    machine = Machine(tmp_path, DetectionSettings(commissioning_windows=60, period_s=1000.0))
    machine.gather(healthy(990))
    assert len(machine.commissioning._rows) <= 100
    machine = machine.cut_power()
    assert 900 < machine.commissioning.windows <= 1000
    machine.gather(healthy(60, seed=3))
    assert machine.commissioning.standardiser is not None
    assert machine.commissioning.standardiser.fitted_on > 900
    assert machine.commissioning.standardiser.mean == pytest.approx([20] * 6, abs=1.5)


def test_commissioning_again_goes_on_beside_the_scale_and_pools_both_regimes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.gather(healthy(60))
    day = machine.commissioning.standardiser
    night = healthy(60, seed=9) + 40
    machine.commissioning.restart(is_afresh=False)
    machine.gather(night[:30])
    assert machine.commissioning.standardiser == day
    assert 0 < machine.commissioning.share < 1
    machine = machine.cut_power()
    assert machine.commissioning.is_gathering
    machine.gather(night[30:])
    both = machine.commissioning.standardiser
    assert both is not None
    assert (np.abs(both.apply(night)) < CLIP).all()
    assert (np.abs(both.apply(healthy(60))) < CLIP).all()
    assert both.fitted_on == 120
    kept = tmp_path / "outdated" / "1"
    assert {path.name for path in kept.iterdir()} == {"standardiser.json", "why.txt"}


def test_commissioning_afresh_forgets_the_scale_so_far(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.gather(healthy(60))
    machine.commissioning.restart(is_afresh=True)
    new = healthy(60, seed=9) + 40
    machine.gather(new)
    assert machine.commissioning.standardiser == fit_standardiser(new)


def test_a_disk_that_refuses_does_not_keep_a_device_from_getting_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.stores.gathered, "_write", refuse)
    machine.gather(healthy(60))
    assert machine.commissioning.is_done


def test_a_glitch_is_neither_in_the_scale_nor_in_the_rows(tmp_path: Path) -> None:
    rows = healthy(60)
    rows[7, 2] = -127.0
    machine = Machine(tmp_path)
    done = machine.gather(rows)
    assert done[7][0][2] == 0
    assert machine.commissioning.standardiser is not None
    assert machine.commissioning.standardiser.std[2] < 5


def test_a_reading_beyond_all_measure_is_at_the_end_of_the_scale(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.gather(healthy(60) * np.float32(1e-3))
    with np.errstate(over="raise"):
        row = machine.commissioning.standardise(np.full(6, 3e38, np.float32))
    assert row.tolist() == [CLIP] * 6


def test_a_sensor_that_is_dead_from_the_start_keeps_nothing_waiting(tmp_path: Path) -> None:
    rows = healthy(60)
    rows[:, 1] = np.nan
    machine = Machine(tmp_path)
    done = machine.gather(rows)
    assert done
    assert machine.commissioning.is_done
    assert np.isnan(machine.commissioning.standardise(rows[0])).tolist() == [False, True] + [False] * 4
    assert any("b delivered nothing" in problem for problem in machine.commissioning.problems())


@pytest.mark.parametrize("spec", [SPEC, raw_spec(("x", "y"), 3, sample_rate_hz=10.0)])
def test_a_constant_sensor_takes_its_first_step_as_its_unit_also_after_a_restart(
    tmp_path: Path, spec: FeatureSpec, caplog: pytest.LogCaptureFixture
) -> None:
    rows = healthy(60)
    columns = [1] if spec is SPEC else [1, 3, 5]
    rows[:, columns] = 7.0
    machine = Machine(tmp_path, spec=spec)
    machine.gather(rows)
    name = spec.names[1]
    assert any(f"until they move: {name}" in problem for problem in machine.commissioning.problems())
    assert machine.commissioning.standardise(rows[0])[1] == 0
    moved = rows[0].copy()
    moved[columns] = -127.0
    assert machine.commissioning.standardise(moved)[1] == 0, "one move alone may be a glitch of the wire"
    moved[columns] = 7.001
    assert machine.commissioning.standardise(moved)[1] == pytest.approx(1, abs=1e-3)
    assert "constant_sensor_moved" in caplog.text
    again = machine.cut_power().commissioning
    assert again.standardise(moved)[1] == pytest.approx(1, abs=1e-3)
    assert again.problems() == []


def test_a_constant_sensor_that_keeps_still_costs_one_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = healthy(60)
    rows[:, 1] = 0.1  # no float64 mean of sixty of these is any of them
    machine = Machine(tmp_path)
    machine.gather(rows)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(module, "scaled_by_first_step", never)
    for row in rows:
        machine.commissioning.standardise(row)


def test_a_second_regime_is_measured_at_the_end_of_the_scale_and_said() -> None:
    watch = ClipWatch(3, sensors=3)
    calm = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    for row in calm:
        watch.update(row)
    assert (watch.share, watch.problem(("a", "b", "c"))) == (0, "")
    night = calm.copy()
    night[::4, 1] = -CLIP
    for row in night[:512]:
        watch.update(row)
    assert watch.share == pytest.approx(0.25 / 3, rel=0.2)
    told = watch.problem(("a", "b", "c"))
    assert told.startswith("b at the end of the scale in up to 2")
    assert "fedge-agent recommission" in told
    assert len(told) < 300


def test_one_burst_is_no_regime() -> None:
    watch = ClipWatch(2, sensors=2)
    rows = np.zeros((512, 2), np.float32)
    rows[300:312] = CLIP
    for row in rows:
        watch.update(row)
    assert watch.problem(("a", "b")) == ""
