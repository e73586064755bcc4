"""Machines: what the world writes into a control file is what the agents' sources read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import DATA, needs

from edge_agent.sources.factory import open_source
from edge_agent.sources.settings import SourceSettings
from simulations.errors import ScenarioError
from simulations.machines import Machines, RecordedBearings, SimulatedMachines
from simulations.scenario import MachineSettings


def source_of(machines: Machines, index: int, control: Path) -> object:
    import msgspec

    table = machines.source_table(index, control)
    return open_source(msgspec.convert(table, SourceSettings, dec_hook=lambda kind, text: kind(text)))


@pytest.fixture
def simulated() -> SimulatedMachines:
    return SimulatedMachines(MachineSettings(speed=1e5), count=3, reference=2, seed=1)


@pytest.fixture
def bearings(tmp_path: Path) -> RecordedBearings:
    rng = np.random.default_rng(0)
    arrays = {f"B1_{n}": rng.normal(size=(100 + n, 3)).astype("f") + n for n in range(5)}
    np.savez(tmp_path / "pronostia_features.npz", feature_names=np.array(["a", "b", "c"]), **arrays)
    return RecordedBearings(MachineSettings(speed=1e5), count=3, reference=1, directory=tmp_path)


def test_an_agent_can_open_each_simulated_machine_and_see_its_fault(
    simulated: SimulatedMachines, tmp_path: Path
) -> None:
    control = tmp_path / "m.json"
    simulated.start(control, 0)
    source = source_of(simulated, 0, control)
    healthy = [source.next_window(1000.0 + t).samples for t in range(1, 20)]  # type: ignore[attr-defined] # a Source
    simulated.break_down(control, 0)
    broken = [source.next_window(2000.0 + t).samples for t in range(1, 20)]  # type: ignore[attr-defined] # a Source
    assert np.std(broken) > 1.2 * np.std(healthy)


def test_machines_of_one_profile_are_individuals(simulated: SimulatedMachines) -> None:
    recordings = simulated.reference_recordings()
    assert len(recordings) == 2
    one, two = recordings.values()
    assert one.shape == two.shape
    assert not np.allclose(one.mean(axis=0), two.mean(axis=0), rtol=1e-3)


def test_reference_bearings_are_not_in_the_fleet(bearings: RecordedBearings) -> None:
    fleet = {bearings.name(i) for i in range(3)}
    assert not fleet & set(bearings.reference_recordings())


def test_parts_of_a_bearings_life_do_not_overlap(bearings: RecordedBearings) -> None:
    parts = [
        bearings.rows(0, p) for p in (bearings.HEALTHY, bearings.CHANGED, bearings.SETTLED, bearings.BROKEN)
    ]
    rows = {row.tobytes() for part in parts for row in part}
    assert len(rows) == sum(len(p) for p in parts)


def test_a_replayed_bearing_jumps_to_the_part_it_is_told(bearings: RecordedBearings, tmp_path: Path) -> None:
    control = tmp_path / "m.json"
    bearings.start(control, 1)
    source = source_of(bearings, 1, control)
    first = source.next_window(1000.0).samples[0]  # type: ignore[attr-defined] # a Source
    assert np.allclose(first, bearings.rows(1, bearings.HEALTHY)[0])
    bearings.break_down(control, 1)
    later = source.next_window(2000.0).samples[0]  # type: ignore[attr-defined] # a Source
    assert np.allclose(later, bearings.rows(1, bearings.BROKEN)[0])


def test_a_folder_without_the_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"pronostia_features\.npz"):
        RecordedBearings(MachineSettings(), count=3, reference=1, directory=tmp_path)


def test_too_few_bearings_are_refused(bearings: RecordedBearings, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="12 devices and a reference need 13"):
        RecordedBearings(MachineSettings(), count=12, reference=1, directory=tmp_path)


@needs("pronostia")
def test_twelve_real_bearings_make_a_fleet() -> None:
    bearings = RecordedBearings(MachineSettings(), count=12, reference=3, directory=DATA / "pronostia")
    assert len({bearings.name(i) for i in range(12)}) == 12
    assert len(bearings.feature_spec.names) == 46
