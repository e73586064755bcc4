"""A device opens no door: its agent dials out, and nobody can dial in. Looked up in the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_process_world import alarming_device, broker
from agent_world import health_of_status, running_agent
from listeners import listeners
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

__all__ = ["broker"]

pytestmark = pytest.mark.slow


def test_an_agent_that_watches_and_reports_listens_on_no_socket(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = alarming_device(tmp_path, broker)
    with running_agent(config) as agent:

        def is_reporting() -> bool:
            assert not listeners(agent.pid)
            return bool(health_of_status(config).get("anomalies"))

        wait_until(is_reporting, "an anomaly", unless=lambda: died(agent, tmp_path / "agent.log"))
        assert listeners(agent.pid) == set()
