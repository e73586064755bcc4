"""A device gets another name by the steps of docs/agent.md: everything is delivered, and what was of the old name is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import (
    DEVICE,
    ROOT,
    TENANT,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from cryptography.hazmat.primitives.asymmetric import ec
from waiting import wait_until

from protocol.identity import private_key_pem
from protocol.messages.kinds import Kind

pytestmark = pytest.mark.slow
NEW_NAME = "pump-08"


def _agent(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_renamed_device_delivers_everything_and_on_demand_what_waited_under_its_old_name(
    tmp_path: Path,
) -> None:
    rows = np.concatenate([healthy(70), *([faulty(4), healthy(12, 9) * 0.5] * 3)])
    broker = agents_broker(tmp_path)
    config = write_device(
        tmp_path,
        rows=rows,
        speed=100.0,
        mqtt_url=broker.url,
        mqtt_ca=broker.ca_file,
        connection=broker.certificates.connection(DEVICE),
        bundle=make_bundle(),
    )
    with running_agent(config) as agent:  # no broker yet
        wait_until(
            lambda: int(str(health_of_status(config).get("anomalies", 0))) >= 5, "anomalies while alone"
        )
        agent.terminate()
        agent.wait()
    state = tmp_path / "state"
    (state / "enrolment.json").write_text(json.dumps({"device": NEW_NAME, "tenant": TENANT}))
    shutil.copy(broker.certificates.connection(NEW_NAME), state / "connection.pem")
    (state / "device.key").write_bytes(private_key_pem(ec.generate_private_key(ec.SECP256R1())))
    with broker:
        fleet = ListeningFleet(broker)
        try:
            with running_agent(config) as agent:
                wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 3, "anomalies of the new name")
                assert {e.source for e in fleet.events.values()} == {NEW_NAME}
                assert {e.boot_number for e in fleet.events.values()} == {2}
                told = [str(p) for p in status_of(config)["problems"]]  # type: ignore[attr-defined] # a list
                assert any(f"set aside in outbox.sqlite.of-{DEVICE}-" in problem for problem in told)
                new = {e.boot_id for e in fleet.events.values()}
                agent.terminate()
                agent.wait()
            assert "events of 1 outboxes" in _agent("take-over-events", "--config", str(config))
            with running_agent(config):
                wait_until(
                    lambda: len([e for e in fleet.of(Kind.ANOMALY) if e.boot_number == 1]) >= 5,
                    "the anomalies of the old name",
                )
                assert {e.source for e in fleet.events.values()} == {NEW_NAME}
                assert not new & {e.boot_id for e in fleet.events.values() if e.boot_number == 1}
        finally:
            fleet.close()
