"""What a device reports is sealed on the way out, beside the loop: a slow key holds nothing up, a broken one loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fake_link import FakeLink
from sealing_world import DEVICE_KEY, fleet_words
from waiting import wait_until

from edge_agent.health import Counters
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment
from edge_agent.report_seals import ReportSeals
from edge_agent.settings import OutboxSettings
from edge_agent.telemetry import Identity, OwnRoads, Telemetry
from protocol.messages.commands import CommandResult
from protocol.messages.envelope import Event, decode
from protocol.messages.kinds import AgentState, CommandStatus, InstallStatus, InstallStep, Kind
from protocol.messages.payloads import Health, InstallReport
from protocol.sealed_events import check_seal

pytestmark = pytest.mark.edge
TENANT, DEVICE = "demo", "pump-07"
REPORT = InstallReport(
    execution="e1", release="pump/1", counter=1, step=InstallStep.COMMITTED, status=InstallStatus.SUCCEEDED
)
RESULT = CommandResult(number=7, action="diagnose", status=CommandStatus.DONE)
HEALTH = Health(state=AgentState.WATCHING, release=None, uptime_s=1.0)


class Chip:
    """A key that signs when it is let, in whatever thread it is asked."""

    def __init__(self) -> None:
        self.may_sign, self.error = threading.Event(), ""
        self.threads: set[int] = set()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return DEVICE_KEY.public_key()

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        self.threads.add(threading.get_ident())
        self.may_sign.wait(60)
        if self.error:
            raise RuntimeError(self.error)
        return DEVICE_KEY.sign(data, signature_algorithm)


class Voice:
    """A device that reports over a link that takes everything."""

    def __init__(self, folder: Path) -> None:
        self.chip, self.link, self.now_s = Chip(), FakeLink(), 0.0
        self.told: list[bytes] = []
        self.seals = ReportSeals(
            self.chip, tenant=TENANT, device=DEVICE, wake=lambda: None, monotonic=lambda: self.now_s
        )
        self.outbox = Outbox.open(folder / "outbox.sqlite", OutboxSettings(), now=self._now())
        self.telemetry = Telemetry(
            Identity(tenant=TENANT, device=DEVICE, family="pump", boot_id="b1"),
            self.outbox,
            self.link,
            Counters(),
            now=self._now,
            words=fleet_words(TENANT, DEVICE),
            sealing=self.seals,
            roads=OwnRoads(tell=self.told.append),
        )

    def _now(self) -> Moment:
        return Moment(wall_s=1.9e9, boot_s=self.now_s, kernel_boot="k", is_set=True)

    def sent(self) -> list[Event]:
        self.telemetry.deliver(self.now_s)
        return [decode(payload) for payload in self.link.sent]


@pytest.fixture
def voice(tmp_path: Path) -> Iterator[Voice]:
    voice = Voice(tmp_path)
    yield voice
    voice.chip.may_sign.set()
    voice.seals.close()


def kinds(events: list[Event]) -> list[Any]:
    return [type(event.data) for event in events]


def test_a_slow_key_signs_beside_the_loop_and_nothing_else_waits_for_it(voice: Voice) -> None:
    voice.telemetry.post([REPORT, HEALTH, RESULT])
    began = time.monotonic()
    for _ in range(50):
        sent = voice.sent()
    assert time.monotonic() - began < 30.0, "the key was not waited for: it signs nothing yet"
    assert kinds(sent) == [Health]
    voice.chip.may_sign.set()
    wait_until(lambda: len(voice.sent()) == 3, "what is sealed by now")
    assert threading.get_ident() not in voice.chip.threads
    for event in voice.sent()[1:]:
        check_seal(event, [DEVICE_KEY.public_key()], tenant=TENANT, device=DEVICE, now_s=0.0)
    assert {event.sequence for event in voice.sent()} == {1, 2, 3}


def test_a_key_that_fails_is_told_and_loses_nothing(voice: Voice) -> None:
    voice.chip.error = "the token was pulled out"
    voice.chip.may_sign.set()
    voice.telemetry.post([REPORT, HEALTH])
    wait_until(lambda: bool(voice.sent() and voice.seals.problem), "the failure")
    assert kinds(voice.sent()) == [Health]
    assert "cannot be signed, and waits: the token was pulled out" in voice.telemetry.problems()[0]
    assert len(voice.outbox) == 2
    voice.chip.error = ""
    voice.now_s += 11.0
    wait_until(lambda: InstallReport in kinds(voice.sent()), "another try")
    assert voice.seals.problem == ""


def test_a_result_goes_past_the_broker_sealed_as_well(voice: Voice) -> None:
    voice.chip.may_sign.set()
    voice.telemetry.post([RESULT])
    wait_until(lambda: bool(voice.sent() and voice.told), "the result")
    said = decode(voice.told[0], Kind.RESULT)
    check_seal(said, [DEVICE_KEY.public_key()], tenant=TENANT, device=DEVICE, now_s=0.0)
    assert (said.data, said.sequence) == (RESULT, 1)


def test_what_an_older_agent_left_in_the_outbox_is_sealed_when_it_leaves(tmp_path: Path) -> None:
    """The outbox keeps what was said without a seal: it is the same file as that of 7cc0d60."""
    before = Voice(tmp_path)
    before.telemetry.post([REPORT])
    assert b'"signature"' not in next(before.outbox._kept.never_sent(1)).payload
    before.outbox.close()
    after = Voice(tmp_path)
    after.chip.may_sign.set()
    try:
        wait_until(lambda: bool(after.sent()), "the report of the version before")
        check_seal(after.sent()[0], [DEVICE_KEY.public_key()], tenant=TENANT, device=DEVICE, now_s=0.0)
    finally:
        before.chip.may_sign.set()
        after.seals.close()
        before.seals.close()
