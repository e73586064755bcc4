"""A driver that blocks or leaks under the real agent process: it is named, replaced, and holds up nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_broker import ListeningFleet
from agent_process_world import INVITATION, alarming_device, broker
from agent_world import health_of_status, running_agent, status_of
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from protocol.messages.kinds import Kind

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow

DRIVER = """
import time
from pathlib import Path
import numpy as np
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import SourceWindow
from models.features import passthrough_spec

HERE = Path(__file__).parent
made = 0

class Driver:
    spec = passthrough_spec([f"feature-{i}" for i in range(6)])

    def __init__(self):
        global made
        made += 1
        self.number, self.pace, self.index = made, Pace(period_s=1.0, speed=100.0), 0
        self.draw = np.random.default_rng(made)

    @property
    def next_due_s(self):
        return self.pace.next_due_s

    def next_window(self, now):
        while (HERE / "blocked").exists() and self.number == 1:
            time.sleep(0.01)
        if (HERE / "leak").exists():
            self.kept = [*getattr(self, "kept", []), *(open(__file__) for _ in range(50))]
        if not self.pace.take(now):
            return None
        self.index += 1
        row = self.draw.normal(size=(1, 6)).astype(np.float32)
        return SourceWindow(samples=row, observed_at_s=float(self.index), index=self.index - 1)

    def close(self):
        raise SystemExit("I never close")

def make(*, speed):
    return Driver()
"""


def plugged(config: Path, *lines: str) -> Path:
    """The device with a plug-in for a source."""
    text = config.read_text()
    start, end = text.index("[source]"), text.index("[detection]")
    source = "\n".join(["[source]", 'kind = "plugin"', 'factory = "driver_of_a_test:make"', *lines, ""])
    config.write_text(text[:start] + source + text[end:])
    (config.parent / "driver_of_a_test.py").write_text(DRIVER)
    return config


def windows_of(config: Path) -> int:
    found = health_of_status(config).get("windows", 0)
    assert isinstance(found, int)
    return found


def test_a_driver_that_blocks_is_named_here_and_in_the_fleet_replaced_and_holds_up_nothing_else(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = plugged(alarming_device(tmp_path, broker), "answers_within_s = 4.0")
    said = "no windows come: the source driver_of_a_test:make has not answered for "
    try:
        with running_agent(config) as agent:
            wait_until(lambda: windows_of(config) > 70, "windows")
            (tmp_path / "blocked").touch()
            wait_until(lambda: said in str(status_of(config)["problems"]), "the driver's name in the status")
            fleet.tell(Kind.TRAINING, INVITATION)
            wait_until(
                lambda: any(said in str(e.data.problems) for e in fleet.of(Kind.HEALTH)),  # type: ignore[union-attr] # of health
                "the driver's name in the fleet",
            )
            wait_until(
                lambda: "no [flower] table" in str(status_of(config).get("learner")), "an answer meanwhile"
            )
            log = tmp_path / "agent.log"
            wait_until(
                lambda: "source_restarted source=driver_of_a_test:make" in log.read_text(), "its successor"
            )
            before = windows_of(config)
            wait_until(lambda: windows_of(config) > before + 20, "windows of its successor")
            wait_until(lambda: said not in str(status_of(config)["problems"]), "no problem any more")
            assert (tmp_path / "blocked").exists(), "the first one is blocked still"
            agent.terminate()
            assert agent.wait() == 0
    finally:
        fleet.close()


def test_a_driver_that_leaks_files_is_started_anew_before_there_are_none(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = plugged(alarming_device(tmp_path, broker))
    with running_agent(config) as agent:
        wait_until(lambda: windows_of(config) > 70, "windows")
        (tmp_path / "leak").touch()
        wait_until(lambda: agent.poll() is not None, "its end")
        assert agent.returncode == 75
    log = (tmp_path / "agent.log").read_text()
    assert "files are open: something leaks, a driver perhaps" in log
    (tmp_path / "leak").unlink()
    with running_agent(config):
        before = windows_of(config)
        wait_until(lambda: windows_of(config) > before, "windows again")
        assert health_of_status(config)["crashes"] == 0, "it had said goodbye"
