"""The real agent process with a real broker: kill -9, no broker, lost acknowledgements, poison, a clean stop."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest
from agent_broker import ListeningFleet
from agent_process_world import INVITATION, RESEND, alarming_device, broker
from agent_world import DEVICE, FAMILY, TENANT, health_of_status, running_agent, status_of
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from edge_agent.version import AGENT_VERSION
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, Birth, Death
from protocol.topics import device_topic, training_topic

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow


def _stored_anomalies(config: Path) -> set[str]:
    database = sqlite3.connect(config.parent / "state" / "outbox.sqlite", timeout=5)
    try:
        rows = database.execute("SELECT boot_id, sequence FROM events WHERE kind = 'anomaly'").fetchall()
    finally:
        database.close()
    return {f"{DEVICE}/{boot}/{sequence}" for boot, sequence in rows}


def _episodes(fleet: ListeningFleet, ids: set[str]) -> set[str]:
    return {data.episode for i in ids if isinstance(data := fleet.events[i].data, AnomalyEvent)}


def _ends(fleet: ListeningFleet) -> list[str]:
    """The anomalies that ended, as often as it was said."""
    return [e.data.episode for e in fleet.of(Kind.CLOSED) if isinstance(e.data, AnomalyClosed)]


def test_kill_9_without_a_broker_loses_no_anomaly_and_no_end_of_one(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = alarming_device(tmp_path, broker)
    with running_agent(config) as agent:
        wait_until(lambda: health_of_status(config).get("anomalies", 0) >= 2, "two anomalies")  # type: ignore[operator] # a number
        # The count is ahead of the outbox for a moment; what opened in between is in the detection's memory.
        wait_until(lambda: len(_stored_anomalies(config)) >= 2, "both in the outbox")
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    kept = _stored_anomalies(config)
    assert "broker_unreachable" in (tmp_path / "agent.log").read_text()
    broker.start()
    fleet = ListeningFleet(broker)
    try:
        with running_agent(config):
            wait_until(lambda: kept <= set(fleet.events), "the anomalies of the first boot")
            wait_until(lambda: _episodes(fleet, kept) <= set(_ends(fleet)), "the end of each of them")
            wait_until(
                lambda: (health_of_status(config)["restarts"], health_of_status(config)["crashes"]) == (1, 1),
                "the crash counted",
            )
            wait_until(
                lambda: not kept & _stored_anomalies(config), "their deletion after the acknowledgement"
            )
            wait_until(
                lambda: len({e.boot_id for e in fleet.of(Kind.BIRTH)}) == 2, "the births of both boots"
            )
        assert len(_ends(fleet)) == len(set(_ends(fleet)))
        anomaly = fleet.events[min(kept)].data
        assert isinstance(anomaly, AnomalyEvent)
        assert anomaly.window_shape == (1, 6)
    finally:
        fleet.close()


def test_lost_acknowledgements_mean_repetition_and_no_loss_and_duplicated_ones_nothing(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker, acknowledges=False)
    config = alarming_device(tmp_path, broker)
    try:
        with running_agent(config):
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly")
            first = fleet.of(Kind.ANOMALY)[0].id
            wait_until(lambda: fleet.deliveries.count(first) >= 2, "its repetition")
            assert first in _stored_anomalies(config)
            fleet.acknowledge_all()
            fleet.acknowledge_all()
            wait_until(lambda: first not in _stored_anomalies(config), "its deletion")
    finally:
        fleet.close()


def test_a_broker_that_dies_and_returns_costs_no_event(tmp_path: Path, broker: MosquittoBroker) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = alarming_device(tmp_path, broker)
    try:
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly")
            fleet.close()
            broker.stop()
            before = health_of_status(config)["anomalies"]
            wait_until(lambda: health_of_status(config)["anomalies"] > before, "an anomaly while alone")  # type: ignore[operator] # numbers
            broker.start()
            fleet = ListeningFleet(broker)
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "the anomaly from the time alone")
            agent.terminate()
            assert agent.wait() == 0
    finally:
        fleet.close()


def test_poison_on_every_downlink_is_counted_and_the_agent_goes_on(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = alarming_device(tmp_path, broker)
    poison = [b"{", b"\x00\xff\xfe", b"[" * 5000, b"null", b'{"specversion":"9"}', b"x" * 140_000]
    try:
        with running_agent(config) as agent:
            wait_until(lambda: bool(status_of(config).get("broker_connected")), "the connection")
            for payload in poison:
                for topic in (
                    device_topic(TENANT, DEVICE, Kind.ACK),
                    device_topic(TENANT, DEVICE, Kind.DESIRED),
                ):
                    fleet.publish(topic, payload)
            wait_until(lambda: status_of(config)["malformed_downlinks"] == 2 * len(poison), "the count")
            assert agent.poll() is None
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly after the poison")
        log = (tmp_path / "agent.log").read_text()
        assert "Traceback" not in log
        assert log.count("downlink_refused") == 2 * len(poison)
    finally:
        fleet.close()


def test_birth_death_and_the_last_will_tell_when_a_device_comes_and_goes(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = alarming_device(tmp_path, broker)
    try:
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.BIRTH)) == 1, "the birth")
            birth = fleet.of(Kind.BIRTH)[0].data
            assert isinstance(birth, Birth)
            assert (birth.release, birth.hardware, birth.labels) == ("pump/1", "rpi4", {"site": "hall-1"})
            assert birth.agent_version == AGENT_VERSION
            agent.terminate()
            assert agent.wait() == 0
        wait_until(lambda: len(fleet.of(Kind.DEATH)) == 1, "the farewell")
        assert fleet.of(Kind.DEATH)[0].data == Death(reason=DeathReason.SHUTDOWN)
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.BIRTH)) == 2, "the second birth")
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            wait_until(lambda: len(fleet.of(Kind.DEATH)) == 2, "the last will")
        will = fleet.of(Kind.DEATH)[-1]
        assert (will.data, will.sequence) == (Death(reason=DeathReason.LOST), 0)
    finally:
        fleet.close()


@pytest.mark.parametrize(
    ("flower", "reason"),
    [("", "no [flower] table"), ('[flower]\nca_file = "ca.pem"\n', "run `fedge-aggregator identity` where")],
    ids=["no table", "no key"],
)
def test_an_invitation_is_declined_with_a_reason_and_detection_goes_on_where_no_aggregator_is_trusted(
    tmp_path: Path, broker: MosquittoBroker, flower: str, reason: str
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = alarming_device(tmp_path, broker, RESEND + flower)
    try:
        with running_agent(config):
            fleet.tell(Kind.TRAINING, INVITATION)
            wait_until(lambda: reason in str(status_of(config).get("learner")), "the reason")
            wait_until(lambda: health_of_status(config).get("anomalies", 0), "an anomaly all the same")
            fleet.publish(training_topic(TENANT, FAMILY), b"", retain=True)
            wait_until(lambda: status_of(config)["learner"] == "no training run is open", "the clearing")
    finally:
        fleet.close()
