"""A device whose owner withdraws windows while some wait: none of them leaves, by a real agent and a real broker."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest
from agent_broker import ListeningFleet
from agent_process_world import alarming_device, broker
from agent_world import health_of_status, running_agent
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from protocol.messages.kinds import Kind
from protocol.messages.payloads import AnomalyEvent

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow
WITHHELD = "[privacy]\nsend_windows = false\n"


def test_an_agent_whose_owner_withdraws_them_sends_no_window_that_it_gathered_without_a_broker(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = alarming_device(tmp_path, broker)
    outbox = tmp_path / "state" / "outbox.sqlite"

    def waiting() -> int:
        with contextlib.closing(sqlite3.connect(outbox, timeout=5)) as database:
            return int(database.execute("SELECT COUNT(*) FROM events WHERE kind = 'anomaly'").fetchone()[0])

    with running_agent(config) as agent:
        wait_until(lambda: health_of_status(config).get("anomalies", 0) >= 2, "two anomalies")  # type: ignore[operator] # a number
        wait_until(lambda: waiting() >= 2, "both in the outbox")
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    config.write_text(config.read_text() + WITHHELD)
    broker.start()
    fleet = ListeningFleet(broker)
    try:
        with running_agent(config):
            wait_until(
                lambda: len({e.boot_id for e in fleet.of(Kind.ANOMALY)}) == 2, "anomalies of both starts"
            )
    finally:
        fleet.close()
    said = [event.data for event in fleet.of(Kind.ANOMALY)]
    assert all(
        isinstance(one, AnomalyEvent) and (one.window, one.window_withheld) == ("", True) for one in said
    )
