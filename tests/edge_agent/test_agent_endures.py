"""The real agent on a machine that fails below it: a disk that takes nothing from the start, a clock that steps by decades."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import (
    DEVICE,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from command_line import run_command
from fault_laboratory.machine_faults import MachineFaults
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

from edge_agent.version import MADE_AFTER_S
from protocol.messages.kinds import Kind

pytestmark = pytest.mark.slow
YEAR_S = 365.25 * 86400.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    made = agents_broker(tmp_path)
    made.start()
    yield made
    made.stop()


def device(directory: Path, broker: MosquittoBroker | None) -> tuple[Path, MachineFaults]:
    config = write_device(
        directory,
        rows=np.concatenate([healthy(100), faulty(20), healthy(80, 9) * 0.5]),
        speed=100.0,
        mqtt_url=broker.url if broker else None,
        mqtt_ca=broker.ca_file if broker else None,
        connection=broker.certificates.connection(DEVICE) if broker else None,
        bundle=make_bundle(),
    )
    return config, MachineFaults(directory, root=directory / "state")


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC], ids=["read-only", "full"])
def test_a_disk_that_takes_nothing_from_the_start_keeps_no_anomaly_from_the_fleet(
    tmp_path: Path, broker: MosquittoBroker, error: int
) -> None:
    config, faults = device(tmp_path, broker)
    faults.refuse(error, first=0)
    fleet = ListeningFleet(broker)
    try:
        with running_agent(config, faults.environment()) as agent:
            unless = lambda: died(agent, tmp_path / "agent.log")  # noqa: E731 - said twice
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly", unless=unless)
            said = "the outbox is in memory only"
            wait_until(
                lambda: any(said in str(event.data) for event in fleet.of(Kind.HEALTH)),
                "a word of it",
                unless=unless,
            )
            assert faults.refused > 0
            agent.terminate()
            assert agent.wait() == 0
        assert "Traceback" not in (tmp_path / "agent.log").read_text()
    finally:
        fleet.close()


def test_clock_steps_of_decades_cost_no_window_and_no_word_of_the_status(tmp_path: Path) -> None:
    config, faults = device(tmp_path, None)

    def windows() -> int:
        found = health_of_status(config).get("windows", 0)
        assert isinstance(found, int)
        return found

    with running_agent(config, faults.environment()) as agent:
        unless = lambda: died(agent, tmp_path / "agent.log")  # noqa: E731 - said twice
        wait_until(lambda: windows() > 70, "windows", unless=unless)
        for years in (-60, 12, 0, 190, -5, 0):
            faults.step_clock(years * YEAR_S)
            before = windows()
            wait_until(
                lambda before=before: windows() > before + 50, f"windows in {2026 + years}", unless=unless
            )
            written = status_of(config)["written_at_s"]
            assert isinstance(written, float)
            assert written >= MADE_AFTER_S
            assert run_command("edge_agent", "status", "--config", str(config)).returncode == 0
        health = health_of_status(config)
        assert (health["stage_failures"], health["unjudged_windows"]) == (0, 0)
        assert "clock_stepped" in (tmp_path / "agent.log").read_text()
        agent.terminate()
        assert agent.wait() == 0
