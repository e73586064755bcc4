"""Telemetry: numbered events out, typed values in, poison counted and never passed on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_link import FakeLink
from sealing_world import SealedAtOnce, fleet_message, fleet_words

from edge_agent.health import (
    Counters,
)
from edge_agent.link import Fate, Message, Outcome
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment
from edge_agent.settings import OutboxSettings
from edge_agent.telemetry import Identity, Telemetry, last_will, subscriptions
from protocol.messages.commands import Commands
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import (
    Ack,
    AnomalyEvent,
    BootAck,
    Death,
    DesiredState,
    Payload,
    RefusedEvent,
    TrainingInvitation,
)

pytestmark = pytest.mark.edge
NOW = 1_800_000_000.0
IDENTITY = Identity(tenant="demo", device="pump-07", family="pump", boot_id="b1")
ACK_TOPIC, DESIRED_TOPIC = "fedge/v1/demo/pump-07/ack", "fedge/v1/demo/pump-07/desired"
COMMANDS_TOPIC = "fedge/v1/demo/pump-07/commands"
TRAINING_TOPIC = "fedge/v1/demo/training/pump"


class Link(FakeLink):
    def arrive(self, topic: str, data: Payload | bytes) -> None:
        payload = data if isinstance(data, bytes) else fleet_message(data, tenant="demo", device="pump-07")
        self.arrived.append(Message(topic=topic, payload=payload))


class Clock:
    """Both clocks of a device; `boot_s` is what the loop's clock shows, too."""

    def __init__(self) -> None:
        self.boot_s = 0.0

    def __call__(self) -> Moment:
        return Moment(wall_s=NOW + self.boot_s, boot_s=self.boot_s, kernel_boot="k1", is_set=True)


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox.open(tmp_path / "outbox.sqlite", OutboxSettings(), now=Clock()(), draw=lambda: 0.0)


@pytest.fixture
def telemetry(link: Link, counters: Counters, outbox: Outbox) -> Telemetry:
    return listening(IDENTITY, outbox, link, counters)


def listening(identity: Identity, outbox: Outbox, link: Link | None, counters: Counters) -> Telemetry:
    return Telemetry(
        identity,
        outbox,
        link,
        counters,
        now=Clock(),
        words=fleet_words("demo", "pump-07"),
        sealing=SealedAtOnce("demo", "pump-07"),
    )


def _anomaly(window: str = "") -> AnomalyEvent:
    return AnomalyEvent(
        release="pump/1",
        score=2.0,
        threshold=1.0,
        window_index=3,
        observed_at_s=1.0,
        window=window,
        window_shape=(3, 4),
    )


def _ack(first: int, last: int) -> Ack:
    return Ack(boots=(BootAck(boot_id="b1", ranges=((first, last),)),))


INVITATION = TrainingInvitation(
    run_id="r1",
    family="pump",
    base_release="pump/1",
    layout_sha256="0" * 64,
    flower_address="127.0.0.1:1",
    issued_at=NOW,
    expires_at=NOW + 60,
)
COMMANDS = Commands(counter=3)
DESIRED = DesiredState(
    execution="e1",
    release="pump/2",
    counter=2,
    bundle_path="/v1/x",
    bundle_sha256="0" * 64,
    bundle_bytes=1,
)


def test_events_are_numbered_from_one_and_stay_until_the_fleet_has_them(
    telemetry: Telemetry, link: Link, outbox: Outbox, counters: Counters
) -> None:
    telemetry.post([_anomaly(), _anomaly()])
    telemetry.deliver(0.0)
    assert [decode(p).id for p in link.sent] == ["pump-07/b1/1", "pump-07/b1/2"]
    assert link.published[0][0].topic == "fedge/v1/demo/pump-07/anomaly"
    link.arrive(ACK_TOPIC, _ack(1, 1))
    telemetry.receive(0.0)
    assert counters.telemetry_bytes == link.bytes_sent == sum(len(p) for p in link.sent)
    assert len(outbox) == 1


def test_an_event_is_encoded_once_and_travels_as_the_bytes_that_were_kept(
    telemetry: Telemetry, link: Link, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[bytes] = []

    def counted(event: Event) -> bytes:
        encoded.append(encode(event))
        return encoded[-1]

    for module in ("edge_agent.telemetry", "protocol.messages.envelope"):
        monkeypatch.setattr(f"{module}.encode", counted)
    telemetry.post([_anomaly("AAAA" * 1000), Death(reason=DeathReason.SHUTDOWN)])
    telemetry.deliver(0.0)
    telemetry.deliver(100.0)
    assert len(encoded) == 2
    assert set(link.sent) == set(encoded)


def test_what_was_under_way_when_a_connection_ended_is_sent_again_over_the_next(
    telemetry: Telemetry, link: Link
) -> None:
    link.fates = (Fate.LEFT,)
    telemetry.post([_anomaly()])
    telemetry.deliver(0.0)
    telemetry.deliver(1.0)
    assert len(link.sent) == 1
    link.outcomes.append(Outcome(fate=Fate.LOST, keys=(("b1", 1),)))
    link.connections += 1
    telemetry.deliver(2.0)
    assert len(link.sent) == 2
    assert link.sent[0] == link.sent[1]


def test_what_the_link_does_not_take_is_tried_again(telemetry: Telemetry, link: Link) -> None:
    link.takes = False
    telemetry.post([_anomaly()])
    telemetry.deliver(0.0)
    link.takes = True
    telemetry.deliver(0.1)
    assert len(link.sent) == 1


def test_without_a_broker_everything_waits(telemetry: Telemetry, link: Link, outbox: Outbox) -> None:
    link.is_connected = False
    telemetry.post([_anomaly()])
    telemetry.deliver(0.0)
    assert link.sent == []
    assert len(outbox) == 1


def test_a_raw_window_that_does_not_fit_is_left_out(telemetry: Telemetry, link: Link) -> None:
    telemetry.post([_anomaly("A" * 200_000)])
    telemetry.deliver(0.0)
    data = decode(link.sent[0]).data
    assert isinstance(data, AnomalyEvent)
    assert data.window == ""
    assert data.window_shape == ()


def test_a_number_that_is_none_is_refused_and_leaves_no_gap(
    telemetry: Telemetry, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    broken = AnomalyEvent(
        release="pump/1", score=float("nan"), threshold=1.0, window_index=0, observed_at_s=0.0
    )
    telemetry.post([broken, _anomaly()])
    telemetry.deliver(0.0)
    assert [decode(p).sequence for p in link.sent] == [1]
    assert "event_not_sent" in caplog.text


def test_only_death_is_retained_and_the_will_has_sequence_zero(telemetry: Telemetry, link: Link) -> None:
    telemetry.post([_anomaly(), Death(reason=DeathReason.SHUTDOWN)])
    telemetry.deliver(0.0)
    assert [retained for _, _, retained in link.published] == [False, True]
    will = last_will(IDENTITY, NOW)
    topic, payload = will.topic, will.payload
    assert topic == "fedge/v1/demo/pump-07/death"
    assert decode(payload, Kind.DEATH).id == "pump-07/b1/0"


def test_downlinks_come_typed_and_a_cleared_invitation_as_none(telemetry: Telemetry, link: Link) -> None:
    link.arrive(TRAINING_TOPIC, INVITATION)
    link.arrive(DESIRED_TOPIC, DESIRED)
    link.arrive(COMMANDS_TOPIC, COMMANDS)
    link.arrive(TRAINING_TOPIC, b"")
    link.arrive(DESIRED_TOPIC, b"")
    link.arrive(COMMANDS_TOPIC, b"")
    downlink = telemetry.receive(0.0)
    assert downlink.desired == (DESIRED,)
    assert downlink.commands == (COMMANDS,)
    assert downlink.invitations == (INVITATION, None)


def test_a_fleet_that_confirms_nothing_is_a_problem_after_minutes_and_none_once_it_does(
    telemetry: Telemetry, link: Link
) -> None:
    telemetry.post([_anomaly()])
    seen: dict[float, tuple[str, ...]] = {}
    for second in range(1, 700):
        telemetry.receive(float(second))
        telemetry.deliver(float(second))
        seen[second] = telemetry.problems()
    assert seen[170] == ()
    assert seen[190] == (
        "connected, but the fleet confirms nothing since 3 minutes: does the fleet's service run?",
    )
    assert "since 11 minutes" in seen[690][0]
    link.arrive(ACK_TOPIC, _ack(1, 1))
    telemetry.receive(700.0)
    assert telemetry.problems() == ()


def test_the_silence_of_a_fleet_counts_from_the_connection_on(telemetry: Telemetry, link: Link) -> None:
    telemetry.post([_anomaly()])
    telemetry.receive(1.0)
    telemetry.deliver(1.0)
    link.is_connected, link.trouble = False, "the broker is being moved"
    telemetry.receive(3000.0)
    assert telemetry.problems() == ("no broker: events wait in the outbox (the broker is being moved)",)
    link.is_connected, link.trouble = True, ""
    link.connections += 1
    telemetry.receive(3600.0)
    assert telemetry.problems() == ()


def test_a_refused_event_is_counted_for_health(telemetry: Telemetry, link: Link, counters: Counters) -> None:
    telemetry.post([_anomaly(), _anomaly()])
    telemetry.deliver(0.0)
    refused = RefusedEvent(boot_id="b1", sequence=1, reason="its id is of another device")
    link.arrive(ACK_TOPIC, Ack(boots=(), refused=(refused,)))
    telemetry.receive(0.1)
    assert counters.outbox_refused == 1
    assert "its id is of another device" in telemetry.problems()[0]


def test_every_event_says_which_start_it_is_of_and_so_does_the_will(link: Link, outbox: Outbox) -> None:
    identity = Identity(tenant="demo", device="pump-07", family="pump", boot_id="b1", boot_number=7)
    telemetry = listening(identity, outbox, link, Counters())
    telemetry.post([_anomaly()])
    telemetry.deliver(0.0)
    assert decode(link.sent[0]).boot_number == decode(last_will(identity, NOW).payload).boot_number == 7


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (ACK_TOPIC, b""),
        (ACK_TOPIC, b"{"),
        (ACK_TOPIC, b"\x00\xff" * 50),
        (ACK_TOPIC, b"[" * 100_000),
        (ACK_TOPIC, b"x" * 200_000),
        (ACK_TOPIC, b"null"),
        (DESIRED_TOPIC, encode(Event(source="f", boot_id="f", sequence=1, time=NOW, data=_ack(1, 9)))),
        (DESIRED_TOPIC, b'{"specversion":"1.0"}'),
        (
            TRAINING_TOPIC,
            encode(Event(source="f", boot_id="f", sequence=1, time=NOW, data=INVITATION)).replace(
                b".v1", b".v7"
            ),
        ),
        (
            "fedge/v1/other/pump-07/ack",
            encode(Event(source="f", boot_id="f", sequence=1, time=NOW, data=_ack(1, 9))),
        ),
        ("", b"{}"),
    ],
)
def test_poison_is_counted_and_told_in_one_line(
    telemetry: Telemetry,
    link: Link,
    outbox: Outbox,
    counters: Counters,
    caplog: pytest.LogCaptureFixture,
    topic: str,
    payload: bytes,
) -> None:
    telemetry.post([_anomaly()])
    telemetry.deliver(0.0)
    link.arrive(topic, payload)
    link.arrive(ACK_TOPIC, _ack(1, 1))
    downlink = telemetry.receive(0.0)
    assert downlink.desired == ()
    assert downlink.invitations == ()
    assert counters.malformed_downlinks == 1
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert len(outbox) == 0, "the good message after the poison still counts"


def test_a_device_listens_to_its_own_topics_and_its_familys_training() -> None:
    assert set(subscriptions(IDENTITY)) == {
        ACK_TOPIC,
        DESIRED_TOPIC,
        COMMANDS_TOPIC,
        TRAINING_TOPIC,
    }
