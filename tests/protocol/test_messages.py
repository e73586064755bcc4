"""Messages: the wire format is held fast by golden bytes; bad input is refused by name."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import slowness

from protocol.errors import MalformedMessageError, MessageError, MessageTooLargeError, UnknownVersionError
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.commands import Command, CommandResult, Commands
from protocol.messages.envelope import PAYLOAD_OF, Event, decode, encode, kind_of
from protocol.messages.kinds import (
    AgentState,
    ClosedReason,
    CommandAction,
    CommandStatus,
    DeathReason,
    DriftState,
    InstallStatus,
    InstallStep,
    Kind,
)
from protocol.messages.payloads import (
    Ack,
    AnomalyClosed,
    AnomalyEvent,
    Birth,
    BootAck,
    Death,
    DesiredState,
    DetectorFinding,
    DriftReport,
    Health,
    InstallReport,
    Payload,
    TrainingInvitation,
)

pytestmark = pytest.mark.edge
GOLDEN = Path(__file__).parent / "golden"

EXAMPLES: dict[Kind, Payload] = {
    Kind.BIRTH: Birth(
        agent_version="0.1.0", hardware="rpi4", family="pump", release="pump/2", labels={"site": "hall-1"}
    ),
    Kind.DEATH: Death(reason=DeathReason.LOST),
    Kind.ANOMALY: AnomalyEvent(
        release="pump/2",
        score=4.5,
        threshold=1.25,
        window_index=77,
        observed_at_s=770.0,
        windows_over=2,
        contributors=("rms", "kurtosis"),
        window="AACAPw==",
        window_shape=(1, 1),
        episode="9f0c2d4e6a8b1c3d",
    ),
    Kind.CLOSED: AnomalyClosed(
        episode="9f0c2d4e6a8b1c3d",
        release="pump/2",
        observed_at_s=830.0,
        lasted_s=60.0,
        windows=7,
        windows_over=5,
        peak_score=6.25,
        reason=ClosedReason.CALM,
    ),
    Kind.DRIFT: DriftReport(
        release="pump/2",
        state=DriftState.DRIFTED,
        drift_score=1.5,
        observed_at_s=780.0,
        windows=78,
        findings=(DetectorFinding(detector="cusum", sensor="score", statistic=9.0, threshold=6.0),),
    ),
    Kind.HEALTH: Health(state=AgentState.WATCHING, release="pump/2", uptime_s=12.5, windows=78),
    Kind.REPORT: InstallReport(
        execution="r1-d01",
        release="pump/2",
        counter=3,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
        progress=1.0,
    ),
    Kind.DESIRED: DesiredState(
        execution="r1-d01",
        release="pump/2",
        counter=3,
        bundle_path="/v1/releases/pump/2/bundle",
        bundle_sha256="ab" * 32,
        bundle_bytes=1000,
    ),
    Kind.ACK: Ack(boots=(BootAck(boot_id="b1", ranges=((1, 5), (7, 7))),)),
    Kind.COMMANDS: Commands(
        counter=92_000_001,
        settings={"detection.budget.alarms_per_1000_windows": 0.5},
        outstanding=(
            Command(
                number=92_000_000,
                action=CommandAction.RECOMMISSION,
                expires_at=1_800_000_060.0,
                arguments={"afresh": True},
            ),
        ),
    ),
    Kind.RESULT: CommandResult(
        number=92_000_000,
        action=CommandAction.RECOMMISSION,
        status=CommandStatus.REFUSED,
        code="forbidden",
        reason="agent.toml allows no scale from new windows alone",
    ),
    Kind.TRAINING: TrainingInvitation(
        run_id="run-1",
        family="pump",
        base_release="pump/1",
        layout_sha256="cd" * 32,
        flower_address="127.0.0.1:9092",
        issued_at=1.0,
        expires_at=61.0,
        signature="c2lnbmF0dXJl",
    ),
}


def event_with(payload: Payload) -> Event:
    return Event(source="d01", boot_id="b1", sequence=7, time=1_800_000_000.25, data=payload)


def wire_of(kind: Kind) -> dict[str, object]:
    return json.loads(encode(event_with(EXAMPLES[kind])))


def test_an_event_says_which_start_of_its_device_it_is_of_and_an_older_agent_does_not() -> None:
    told = Event(source="d01", boot_id="b1", boot_number=4, sequence=7, time=0.0, data=EXAMPLES[Kind.DEATH])
    assert decode(encode(told)) == told
    assert decode(encode(event_with(EXAMPLES[Kind.DEATH]))).boot_number == 0


def test_every_kind_has_a_payload_and_an_example() -> None:
    assert set(PAYLOAD_OF) == set(Kind) == set(EXAMPLES)


@pytest.mark.parametrize("kind", Kind)
def test_the_wire_format_is_the_golden_one(kind: Kind) -> None:
    assert encode(event_with(EXAMPLES[kind])) == (GOLDEN / f"{kind.value}.v1.json").read_bytes().rstrip(b"\n")


@pytest.mark.parametrize("kind", Kind)
def test_a_golden_message_reads_back_as_what_was_meant(kind: Kind) -> None:
    assert decode((GOLDEN / f"{kind.value}.v1.json").read_bytes(), kind) == event_with(EXAMPLES[kind])


@pytest.mark.parametrize("kind", Kind)
def test_fields_of_a_newer_sender_are_tolerated(kind: Kind) -> None:
    wire = wire_of(kind)
    wire["traceparent"] = "00-abc"
    wire["data"]["colour"] = {"nested": [1, 2]}  # type: ignore[index] # JSON
    assert decode(json.dumps(wire).encode()) == event_with(EXAMPLES[kind])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"type": "dev.fedge.death.v2"}, UnknownVersionError, "version 2; this build speaks version 1"),
        ({"type": "dev.fedge.dance.v1"}, UnknownVersionError, "not known"),
        ({"type": "org.example.death.v1"}, UnknownVersionError, "not known"),
        ({"specversion": "0.3"}, UnknownVersionError, "specversion '0.3'"),
        ({"id": "d01/b1/8"}, MalformedMessageError, "d01/b1/7"),
        ({"sequence": -1}, MalformedMessageError, "sequence"),
        ({"time": "yesterday"}, MalformedMessageError, "time"),
        ({"time": "2026-01-31T12:00:00"}, MalformedMessageError, "no zone"),
        ({"data": {"reason": "bored"}}, MalformedMessageError, "reason"),
        ({"data": {}}, MalformedMessageError, "reason"),
        ({"source": ""}, MalformedMessageError, "source"),
    ],
)
def test_a_wrong_field_is_refused_and_named(
    change: dict[str, object], error: type[MessageError], words: str
) -> None:
    payload = json.dumps(wire_of(Kind.DEATH) | change).encode()
    with pytest.raises(error, match=words):
        decode(payload)


def test_a_message_on_the_topic_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="arrived on the topic of 'health'"):
        decode(encode(event_with(EXAMPLES[Kind.DEATH])), Kind.HEALTH)


@given(cut=st.integers(0, 10_000), kind=st.sampled_from(list(Kind)))
def test_a_truncated_message_is_refused_wherever_it_is_cut(cut: int, kind: Kind) -> None:
    payload = encode(event_with(EXAMPLES[kind]))
    with pytest.raises(MessageError):
        decode(payload[: cut % len(payload)])


@given(junk=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused_but_never_crash(junk: bytes) -> None:
    with pytest.raises(MessageError):
        decode(junk)


def test_an_oversized_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MessageTooLargeError, match=str(MAX_PAYLOAD_BYTES)):
        decode(b"[" * (MAX_PAYLOAD_BYTES + 1))


def test_a_deeply_nested_message_is_refused_but_brackets_in_strings_do_not_count() -> None:
    wire = wire_of(Kind.BIRTH)
    wire["data"]["labels"] = {"note": '\\"[[[[[[[[[[[[[[[['}  # type: ignore[index] # JSON
    assert isinstance(decode(json.dumps(wire).encode()).data, Birth)
    wire["data"]["labels"] = json.loads("[" * 20 + "]" * 20)  # type: ignore[index] # JSON
    with pytest.raises(MessageTooLargeError, match="nests deeper"):
        decode(json.dumps(wire).encode())


@pytest.mark.parametrize(
    "payload",
    [b'"' + b'\\"' * 60_000, b'"' + b'\\"' * 60_000 + b"\\", b'"' + b"\\" * 120_001, b'"a' * 60_000],
)
def test_a_payload_of_quotes_and_backslashes_costs_no_more_than_its_length(payload: bytes) -> None:
    began = time.process_time()
    with pytest.raises(MalformedMessageError):
        decode(payload)
    assert time.process_time() - began < 2.0 * slowness(), (
        "a search that starts anew at every quote takes a minute"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_not_sent(value: float) -> None:
    anomaly = msgspec.structs.replace(EXAMPLES[Kind.ANOMALY], score=value)
    with pytest.raises(MalformedMessageError, match="NaN or infinity"):
        encode(event_with(anomaly))


def test_a_message_larger_than_a_broker_takes_is_not_sent() -> None:
    anomaly = msgspec.structs.replace(EXAMPLES[Kind.ANOMALY], window="A" * MAX_PAYLOAD_BYTES)
    with pytest.raises(MessageTooLargeError, match="anomaly"):
        encode(event_with(anomaly))


def test_kind_of_a_payload_is_the_kind_it_is_listed_under() -> None:
    assert all(kind_of(payload) is kind for kind, payload in EXAMPLES.items())
