"""The real agent process and its learner with a real broker: who may start one, who ends it, and what becomes of an orphan."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import msgspec
import pytest
from agent_broker import ListeningFleet
from agent_process_world import INVITATION, broker, knocking_learner, learner_pid, training_device
from agent_world import FAMILY, TENANT, health_of_status, running_agent
from cryptography.hazmat.primitives.asymmetric import ec
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from protocol.invitations import sign_invitation
from protocol.messages.kinds import Kind
from protocol.messages.payloads import TrainingInvitation
from protocol.topics import training_topic

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow


def test_a_killed_learner_is_replaced_and_an_orphan_ended_while_the_agent_watches_on(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    identity = ec.generate_private_key(ec.SECP256R1())
    with (
        contextlib.closing(ListeningFleet(broker)) as fleet,
        training_device(tmp_path, broker, identity) as config,
    ):
        with running_agent(config) as agent:
            fleet.tell(Kind.TRAINING, sign_invitation(INVITATION, identity))
            first = knocking_learner(config)
            os.kill(first, signal.SIGKILL)
            windows = health_of_status(config)["windows"]
            orphan = knocking_learner(config, other_than=first)
            assert health_of_status(config)["windows"] > windows  # type: ignore[operator] # numbers
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        assert Path(f"/proc/{orphan}").exists()
        with running_agent(config) as agent:
            wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the end of the orphan")
            last = knocking_learner(config, other_than=orphan)
            fleet.publish(training_topic(TENANT, FAMILY), b"", retain=True)
            wait_until(lambda: not Path(f"/proc/{last}").exists(), "the end of training with the run")
            assert agent.poll() is None
        assert "learner_crashed run=run-1 status=-9" in (tmp_path / "agent.log").read_text()


def test_forged_and_replayed_invitations_over_mqtt_start_no_learner_and_do_not_end_one(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    identity, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def changed(run_id: str, **changes: object) -> TrainingInvitation:
        return msgspec.structs.replace(INVITATION, run_id=run_id, **changes)

    honest = sign_invitation(INVITATION, identity)
    attacks = {
        "unsigned": changed("unsigned"),
        "by-a-stranger": sign_invitation(changed("by-a-stranger"), stranger),
        "led-elsewhere": changed("led-elsewhere", signature=honest.signature),
        "another-host": sign_invitation(changed("another-host", flower_address="10.0.0.1:9092"), identity),
        "another-family": sign_invitation(changed("another-family", family="fan"), identity),
        "too-late": sign_invitation(changed("too-late", expires_at=1.0), identity),
    }

    def log() -> str:
        return (tmp_path / "agent.log").read_text()

    with (
        contextlib.closing(ListeningFleet(broker)) as fleet,
        training_device(tmp_path, broker, identity, host="127.0.0.1") as config,
        running_agent(config),
    ):

        def tell_and_see_ignored(name: str) -> None:
            fleet.tell(Kind.TRAINING, attacks[name])
            wait_until(lambda: f"invitation_ignored run={name!r}" in log(), f"{name} to be ignored")

        wait_until(lambda: fleet.of(Kind.BIRTH), "the device")
        for name in ("unsigned", "by-a-stranger", "led-elsewhere"):
            tell_and_see_ignored(name)
        assert "learner_started" not in log()
        fleet.tell(Kind.TRAINING, honest)
        pid = knocking_learner(config)
        for name in ("another-host", "another-family", "too-late"):
            tell_and_see_ignored(name)
        assert learner_pid(config) == pid
        assert "learner_stopping" not in log()
        fleet.publish(training_topic(TENANT, FAMILY), b"", retain=True)
        wait_until(lambda: learner_pid(config) is None, "the end of training with the run")
        fleet.tell(Kind.TRAINING, honest)
        wait_until(lambda: "has ended here before" in log(), "the copy to be ignored")
        assert len(re.findall(r"learner_started run=\S+ pid=", log())) == 1
