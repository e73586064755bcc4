"""A device whose machine alarms steadily, for the real agent process with a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agent_broker import agents_broker
from agent_world import FAMILY, faulty, healthy, make_bundle, write_device
from mosquitto_broker import MosquittoBroker

from protocol.messages.payloads import TrainingInvitation

RESEND = "[outbox]\nresend_s = 0.5\n"
INVITATION = TrainingInvitation(
    run_id="run-1",
    family=FAMILY,
    base_release="pump/1",
    layout_sha256="0" * 64,
    flower_address="127.0.0.1:1",
    issued_at=0.0,
    expires_at=4e9,
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    made = agents_broker(tmp_path)
    yield made
    made.stop()


def alarming_device(directory: Path, broker: MosquittoBroker, extra: str = RESEND) -> Path:
    # 70 healthy windows for the scale, then a fault of 20 windows in every 100: anomalies come steadily.
    quiet = healthy(70, 9) * 0.5
    rows = np.concatenate([healthy(100), *([faulty(20), quiet] * 3)])
    return write_device(
        directory,
        rows=rows,
        speed=100.0,
        mqtt_url=broker.url,
        mqtt_ca=broker.ca_file,
        bundle=make_bundle(),
        extra=extra,
    )
