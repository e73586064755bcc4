"""The simulated machine behaves like the physics it claims, and its source like any other."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import slowness

from edge_agent.errors import SourceError
from edge_agent.sources.factory import open_source
from edge_agent.sources.port import SourceWindow
from edge_agent.sources.rotating_machine import PROFILES, Bearing, Fault, MachineCondition, RotatingMachine
from edge_agent.sources.settings import PluginSettings, SimulatedSettings
from models.features import make_extractor, passthrough_spec

pytestmark = pytest.mark.edge

RATE = 12_800.0


def record(
    profile: str, condition: MachineCondition, *, windows: int = 20, samples: int = 16_384
) -> NDArray[np.float64]:
    machine = RotatingMachine(PROFILES[profile], seed=3, sample_rate_hz=RATE, window_samples=samples)
    return np.stack([machine.window(condition, 10.0 * i)[:, 0] for i in range(windows)]).astype(np.float64)


def envelope_spectrum(windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Independent of the feature extractor: rectify the differentiated signal, average the spectra."""
    rectified = np.abs(np.diff(windows, n=2, axis=1))
    rectified -= rectified.mean(axis=1, keepdims=True)
    power = (np.abs(np.fft.rfft(rectified * np.hanning(rectified.shape[1]), axis=1)) ** 2).mean(axis=0)
    return np.fft.rfftfreq(rectified.shape[1], 1 / RATE), power


def test_defect_orders_match_the_data_sheet_of_a_6205_bearing() -> None:
    bearing = Bearing(balls=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04)
    assert bearing.outer_race_order == pytest.approx(3.585, abs=0.005)
    assert bearing.inner_race_order == pytest.approx(5.415, abs=0.005)
    assert bearing.ball_order / 2 == pytest.approx(2.357, abs=0.005)
    assert bearing.cage_order == pytest.approx(0.398, abs=0.001)


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", ["outer_race", "inner_race"])
def test_a_race_defect_shows_at_its_own_frequency_in_the_envelope(profile: str, kind: str) -> None:
    fault = Fault(kind=kind, severity=0.6)  # type: ignore[arg-type]  # parametrised literals
    frequency, power = envelope_spectrum(record(profile, MachineCondition(fault=fault)))
    bearing = PROFILES[profile].bearing
    order = bearing.outer_race_order if kind == "outer_race" else bearing.inner_race_order
    expected = order * PROFILES[profile].speed_rpm / 60
    search = (frequency > 0.6 * expected) & (frequency < 1.4 * expected)
    found = frequency[search][np.argmax(power[search])]
    assert found == pytest.approx(expected, rel=0.03)


def test_the_strongest_line_of_a_healthy_fan_is_a_multiple_of_its_shaft_rate() -> None:
    windows = record("fan-c", MachineCondition())
    power = (np.abs(np.fft.rfft(windows * np.hanning(windows.shape[1]), axis=1)) ** 2).mean(axis=0)
    frequency = np.fft.rfftfreq(windows.shape[1], 1 / RATE)
    low = frequency < 200
    order = frequency[low][np.argmax(power[low])] / (PROFILES["fan-c"].speed_rpm / 60)
    assert abs(order - round(order)) < 0.05


def roughness(windows: NDArray[np.floating]) -> float:
    """RMS of the second difference: the high band, where bearings speak; shaft tones hardly enter."""
    return float(np.diff(windows, n=2, axis=1).std())


def test_amplitude_grows_with_load_and_imbalance_and_the_high_band_with_wear() -> None:
    nominal = record("pump-b", MachineCondition(), samples=2048)
    loaded = record("pump-b", MachineCondition(load=1.5), samples=2048)
    unbalanced = record("pump-b", MachineCondition(fault=Fault(kind="imbalance", severity=0.5)), samples=2048)
    worn = record("pump-b", MachineCondition(wear=0.8), samples=2048)
    assert loaded.std() > 1.05 * nominal.std()
    assert unbalanced.std() > 1.5 * nominal.std()
    assert roughness(worn) > 1.5 * roughness(nominal)


def test_wear_grows_with_machine_time() -> None:
    machine = RotatingMachine(PROFILES["pump-b"], seed=1)
    young = np.stack([machine.window(MachineCondition(), 0.0) for _ in range(30)])
    old = np.stack([machine.window(MachineCondition(), 3600.0 * 15_000) for _ in range(30)])
    assert roughness(old) > 1.3 * roughness(young)


def test_the_same_seed_gives_the_same_life_and_another_seed_another_individual() -> None:
    def life(seed: int) -> NDArray[np.float32]:
        machine = RotatingMachine(PROFILES["motor-a"], seed=seed)
        return np.stack([machine.window(MachineCondition(), 10.0 * i) for i in range(3)])

    np.testing.assert_array_equal(life(5), life(5))
    assert abs(life(5).std() / life(6).std() - 1) > 0.01


def test_a_window_costs_less_than_a_millisecond() -> None:
    machine = RotatingMachine(PROFILES["pump-b"], seed=1)
    condition = MachineCondition(fault=Fault(kind="inner_race", severity=0.5))
    costs = []
    for _ in range(50):
        begin = time.process_time()
        machine.window(condition, 0.0)
        costs.append(time.process_time() - begin)
    assert np.median(costs) < 2e-3 * slowness()  # measured 0.4 ms


def test_a_sensor_too_slow_for_the_casing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sample at .* Hz or more"):
        RotatingMachine(PROFILES["fan-c"], seed=1, sample_rate_hz=8000.0)
    with pytest.raises(ValueError, match="even"):
        RotatingMachine(PROFILES["fan-c"], seed=1, window_samples=333)


def test_the_source_delivers_windows_its_own_spec_can_read(tmp_path: Path) -> None:
    source = open_source(SimulatedSettings(seed=1, speed=60.0))
    window = source.next_window(5.0)
    assert window is not None
    features = make_extractor(source.spec).extract(window.samples)
    assert features.shape == (len(source.spec.names),)
    assert source.next_window(5.1) is None
    assert source.next_due_s == pytest.approx(5.0 + 10 / 60)
    source.close()
    source.close()


def test_the_control_file_changes_the_world_and_a_bad_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(SimulatedSettings(seed=1, control_file=tmp_path / "machine.json"))

    def loudness(at: float) -> float:
        return float(np.mean([source.next_window(at + 100.0 * i).samples.std() for i in range(8)]))

    healthy = loudness(0.0)
    (tmp_path / "machine.json").write_text('{"load": 1.4, "fault": {"kind": "outer_race", "severity": 0.9}}')
    faulty = loudness(1e4)
    (tmp_path / "machine.json").write_text('{"load": "heavy"}')
    still_faulty = loudness(2e4)
    assert faulty > 1.5 * healthy
    assert still_faulty > 1.5 * healthy
    assert caplog.text.count("control_file_refused") == 1


def test_an_unknown_profile_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"choose one of .*fan-c"):
        open_source(SimulatedSettings(profile="turbine"))
    with pytest.raises(SourceError, match="too low for fan-c"):
        open_source(SimulatedSettings(profile="fan-c", sample_rate_hz=4000.0))


PLUGIN = """
from edge_agent.sources.settings import SimulatedSettings
from edge_agent.sources.simulated import SimulatedSource

def make_source(*, speed, seed):
    return SimulatedSource(SimulatedSettings(seed=seed, speed=speed))

def make_nothing(*, speed):
    return object()

def fail(*, speed):
    raise OSError("no such device /dev/spi7")
"""


def test_a_plugin_is_called_with_its_options_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_test_sensors.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)

    def opened(factory: str, **options: bool | float | str | list[str] | list[float]) -> object:
        return open_source(PluginSettings(factory=factory, options=options))

    assert opened("my_test_sensors:make_source", seed=4).next_window(0.0) is not None  # type: ignore[attr-defined]  # a Source
    with pytest.raises(SourceError, match="without spec, next_due_s, next_window, close"):
        opened("my_test_sensors:make_nothing")
    with pytest.raises(SourceError, match="OSError: no such device /dev/spi7"):
        opened("my_test_sensors:fail")
    with pytest.raises(SourceError, match="has no function 'gone'"):
        opened("my_test_sensors:gone")
    with pytest.raises(SourceError, match="cannot import no_such_module"):
        opened("no_such_module:make")


class Driver:
    """A driver as people write them: it raises what its library raises."""

    spec = passthrough_spec(("a", "b"))

    def __init__(self, gives: object) -> None:
        self._gives = gives

    @property
    def next_due_s(self) -> float:
        return 0.0

    def next_window(self, _now: float) -> object:
        if isinstance(self._gives, Exception):
            raise self._gives
        return self._gives

    def close(self) -> None:
        raise OSError("port vanished")


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (OSError("serial port vanished"), "next_window failed: OSError: serial port vanished"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
        (np.zeros((1, 2), np.float32), "gave ndarray; it must give a SourceWindow"),
        (SourceWindow(samples=[[1.0, 2.0]], observed_at_s=0.0, index=0), "an array of numbers"),  # type: ignore[arg-type] # what a careless plug-in gives
        (SourceWindow(samples=np.array([["1", "x"]]), observed_at_s=0.0, index=0), "an array of numbers"),  # type: ignore[arg-type] # as above
        (
            SourceWindow(samples=np.array([[1.0, "x"]], object), observed_at_s=0.0, index=0),
            "an array of numbers",
        ),
        (SourceWindow(samples=np.zeros((1, 2), complex), observed_at_s=0.0, index=0), "an array of numbers"),  # type: ignore[arg-type] # as above
        (
            SourceWindow(samples=np.zeros((1, 2), np.float32), observed_at_s=float("nan"), index=0),
            "a finite observed_at_s",
        ),
    ],
)
def test_whatever_a_plugin_does_is_a_source_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: object, says: str
) -> None:
    module = types.ModuleType("driver_of_a_test")
    module.make = lambda speed: Driver(gives)  # type: ignore[attr-defined] # a module made here
    monkeypatch.setitem(sys.modules, "driver_of_a_test", module)
    source = open_source(PluginSettings(factory="driver_of_a_test:make"))
    with pytest.raises(SourceError, match=says) as caught:
        source.next_window(0.0)
    assert "driver_of_a_test:make" in str(caught.value)
    source.close()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[1.0, None]], object), [1.0, np.nan]),
        (np.array([[1.0, 1e300]]), [1.0, np.inf]),
        (np.ma.masked_values([[7, -127]], -127), [7.0, np.nan]),
        (np.array([[True, False]]), [1.0, 0.0]),
        (np.array([[np.nan, -2.5]], np.float32), [np.nan, -2.5]),
    ],
)
def test_what_a_plugin_could_not_read_is_missing_and_the_rest_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    samples: np.ndarray,
    expected: list[float],
) -> None:
    module = types.ModuleType("driver_of_a_test")
    given = SourceWindow(samples=samples, observed_at_s=0.0, index=0)
    module.make = lambda speed: Driver(given)  # type: ignore[attr-defined] # a module made here
    monkeypatch.setitem(sys.modules, "driver_of_a_test", module)
    window = open_source(PluginSettings(factory="driver_of_a_test:make")).next_window(0.0)
    assert window is not None
    assert window.samples.dtype == np.float32
    np.testing.assert_array_equal(window.samples, [expected])
    assert window.streaming_bytes == given.streaming_bytes
    assert not recwarn.list
