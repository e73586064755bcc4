"""A real agent started in what a kill or a power cut left of another one's state: it watches, or says why not, and never ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from agent_world import faulty, health_of_status, healthy, make_bundle, running_agent, write_device
from fault_laboratory.crash_states import Crashes
from fault_laboratory.machine_faults import MachineFaults
from fault_laboratory.recorded_disk import read_changes, replay, take_snapshot
from waiting import died, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
STARTS = 60


def recorded_life(folder: Path) -> tuple[Path, Crashes]:
    """A device that commissions, alarms, and is killed."""
    rows = np.concatenate([healthy(100), *([faulty(10), healthy(20, 9) * 0.5] * 6)])
    config = write_device(folder / "d", rows=rows, speed=60.0, bundle=make_bundle())
    state = folder / "d" / "state"
    start, faults = take_snapshot(state), MachineFaults(folder, root=state)
    with running_agent(config, faults.environment(is_recorded=True)) as agent:
        wait_until(
            lambda: int(str(health_of_status(config).get("anomalies", 0))) >= 3,
            "three anomalies",
            unless=lambda: died(agent, folder / "d" / "agent.log"),
        )
    changes = read_changes(faults)
    replay(changes, start).require_equal(state, but=1)
    return config, Crashes("agent process", changes, start)


def test_a_real_agent_starts_in_any_state_that_a_crash_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, crashes = recorded_life(tmp_path)
    states = list(crashes.states(others_every=7))
    for state in states[:: max(1, len(states) // STARTS)]:
        with state.on_disk() as folder:
            (folder / "device.key").chmod(0o600)
            status = folder / "status.json"
            status.unlink(missing_ok=True)
            with running_agent(config, {**os.environ, "FEDGE_AGENT_STATE_DIR": str(folder)}) as agent:
                wait_until(
                    status.exists,
                    f"{state}: a status",
                    unless=lambda: died(agent, tmp_path / "d" / "agent.log"),
                )
                seen = json.loads(status.read_bytes())
                assert seen["health"]["release"] == "pump/1", str(state)
                assert seen["health"]["state"] in {"watching", "commissioning"}, str(state)
    crashes.show(capsys, at_least=150)
