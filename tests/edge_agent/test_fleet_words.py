"""What is said in the fleet's name is obeyed where the fleet said it, and nowhere else; what it costs to look is bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from fake_link import FakeLink
from msgspec.structs import replace
from sealing_world import FLEET_KEY, OTHER_KEY, SealedAtOnce, fleet_event, fleet_words

from edge_agent.fleet_words import TOLD_FOR_S, FleetWords
from edge_agent.health import Counters
from edge_agent.link import Message
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment
from edge_agent.settings import OutboxSettings
from edge_agent.telemetry import Identity, OwnRoads, Telemetry
from edge_agent.trusted_clock import LATEST_S, TrustedClock
from edge_agent.version import MADE_AFTER_S
from protocol.messages.commands import Commands
from protocol.messages.envelope import Event, encode, kind_of
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import Ack, BootAck, DesiredState, Health, Payload

pytestmark = pytest.mark.edge
TENANT, DEVICE = "demo", "pump-07"
OF: dict[str, Any] = {"tenant": TENANT, "device": DEVICE}
NOW = 1.9e9
DESIRED = DesiredState(
    execution="e1", release="pump/2", counter=2, bundle_path="/v1/x", bundle_sha256="0" * 64, bundle_bytes=1
)
COMMANDS = Commands(counter=3)
ACK = Ack(boots=(BootAck(boot_id="b1", ranges=((1, 1),)),))
WORDS = (DESIRED, COMMANDS, ACK)


class Ear:
    """A device that hears and says: telemetry over a link and a road that a test fills."""

    def __init__(self, folder: Path, words: FleetWords | None = None) -> None:
        self.now_s = 0.0
        self.words = words or fleet_words(TENANT, DEVICE, monotonic=lambda: self.now_s)
        self.link, self.counters, self.road = FakeLink(), Counters(), self
        self.answer: Event | None = None
        self.forgotten = 0
        self.told: list[bytes] = []
        self.outbox = Outbox.open(folder / "outbox.sqlite", OutboxSettings(), now=self._now())
        self.telemetry = Telemetry(
            Identity(tenant=TENANT, device=DEVICE, family="pump", boot_id="b1"),
            self.outbox,
            self.link,
            self.counters,
            now=self._now,
            words=self.words,
            sealing=SealedAtOnce(TENANT, DEVICE),
            roads=OwnRoads(asked=(self,), tell=self.told.append),
        )

    def take(self) -> Event | None:
        taken, self.answer = self.answer, None
        return taken

    def forget(self) -> None:
        self.forgotten += 1

    def _now(self) -> Moment:
        return Moment(wall_s=NOW, boot_s=self.now_s, kernel_boot="k", is_set=True)

    def say_something(self) -> None:
        """An event that waits for its acknowledgement."""
        self.telemetry.post([Health(state=AgentState.WATCHING, release=None, uptime_s=1.0)])
        self.telemetry.deliver(self.now_s)
        self.telemetry.deliver(self.now_s)
        assert len(self.outbox) == 1

    def hear(self, *events: Event) -> tuple[Payload, ...]:
        for event in events:
            topic = f"fedge/v1/{TENANT}/{DEVICE}/{kind_of(event.data).value}"
            self.link.arrived.append(Message(topic=topic, payload=encode(event)))
        heard = self.telemetry.receive(self.now_s)
        return *heard.desired, *heard.commands


@pytest.fixture
def ear(tmp_path: Path) -> Ear:
    return Ear(tmp_path)


def forgeries(word: Payload) -> dict[str, Event]:
    """What who holds the broker can make of a word, without the fleet's key."""
    true = fleet_event(word, **OF)
    assert true.seal is not None
    return {
        "unsigned": replace(true, seal=None),
        "another key": fleet_event(word, **OF, key=OTHER_KEY),
        "another device": fleet_event(word, tenant=TENANT, device="pump-08"),
        "another tenant": fleet_event(word, tenant="other", device=DEVICE),
        "ended": fleet_event(word, **OF, not_after=int(NOW)),
        "a later end": replace(true, seal=replace(true.seal, not_after=true.seal.not_after + 1)),
        "another number": replace(true, sequence=2),
        "another sender": replace(true, source="aggregator"),
        "no signature": replace(true, seal=replace(true.seal, signature="")),
        "no base64": replace(true, seal=replace(true.seal, signature="*" * 128)),
    }


@pytest.mark.parametrize("how", sorted(forgeries(DESIRED)))
def test_a_forged_word_is_counted_and_told_and_never_obeyed_on_either_road(tmp_path: Path, how: str) -> None:
    words = fleet_words(TENANT, DEVICE, earliest_s=lambda: NOW)
    ear = Ear(tmp_path, words)
    ear.say_something()
    assert ear.hear(*(forgeries(word)[how] for word in WORDS)) == ()
    ear.answer = forgeries(DESIRED)[how]
    assert ear.hear() == ()
    assert (ear.forgotten, ear.counters.malformed_downlinks, len(ear.outbox)) == (1, 4, 1)
    assert "4 messages in the fleet's name were not obeyed" in ear.telemetry.problems()[0]
    assert ear.hear(*(fleet_event(word, **OF) for word in WORDS)) == (DESIRED, COMMANDS)
    assert len(ear.outbox) == 0, "and what the fleet says itself is heard as before"


def test_what_a_broker_changed_in_a_word_is_no_word(ear: Ear) -> None:
    true = fleet_event(DESIRED, **OF)
    for change in (
        {"release": "pump/1"},
        {"counter": 2**40},
        {"bundle_sha256": "1" * 64},
        {"is_approved": True},
        {"execution": "e2"},
    ):
        assert ear.hear(replace(true, data=replace(DESIRED, **change))) == ()
    assert ear.hear(true) == (DESIRED,)


def test_an_approval_is_part_of_the_sealed_word_whatever_road_it_comes(ear: Ear) -> None:
    approved = replace(DESIRED, is_approved=True)
    assert ear.hear(fleet_event(approved, **OF)) == (approved,)
    ear.answer = fleet_event(approved, **OF)
    assert ear.hear() == (approved,)
    assert ear.forgotten == 0


def test_nothing_is_obeyed_while_the_repository_is_not_known_and_an_event_is_kept(tmp_path: Path) -> None:
    keys: list[EllipticCurvePublicKey] = []
    ear = Ear(tmp_path, fleet_words(TENANT, DEVICE, keys=lambda: tuple(keys)))
    ear.say_something()
    assert ear.hear(*(fleet_event(word, **OF) for word in WORDS)) == ()
    assert "the fleet's signed repository is not known here" in ear.telemetry.problems()[0]
    keys.append(FLEET_KEY.public_key())
    assert ear.hear() == (DESIRED, COMMANDS), "they are looked at again once it is"
    assert len(ear.outbox) == 1, "an acknowledgement comes again with its event"
    assert not ear.telemetry.problems(), "of a device that has just joined nobody is told for a day"


def test_a_key_that_was_changed_needs_nobody_to_touch_the_device(tmp_path: Path) -> None:
    keys = [FLEET_KEY.public_key()]
    doubts = 0

    def doubt() -> None:
        nonlocal doubts
        doubts += 1

    ear = Ear(tmp_path, fleet_words(TENANT, DEVICE, keys=lambda: tuple(keys), doubt=doubt))
    next_word = replace(DESIRED, counter=3)
    assert ear.hear(fleet_event(DESIRED, **OF)) == (DESIRED,)
    assert ear.hear(fleet_event(next_word, **OF, key=OTHER_KEY)) == ()
    assert doubts == 1, "the repository is asked at once"
    keys[:] = [OTHER_KEY.public_key()]
    assert ear.hear() == (next_word,)
    assert ear.hear() == ()
    assert ear.hear(fleet_event(replace(DESIRED, counter=4), **OF)) == (), (
        "whoever has the old key has nothing"
    )


def test_a_flood_in_the_fleets_name_costs_so_much_a_second_and_no_more(ear: Ear) -> None:
    checked = 0
    original = ear.words.is_fleets

    def counting(event: Event) -> bool:
        nonlocal checked
        checked += 1
        return original(event)

    ear.words.is_fleets = counting  # type: ignore[method-assign]  # counts
    asked: list[float] = []
    ear.words._doubt = lambda: asked.append(ear.now_s)
    forged = [fleet_event(word, **OF, key=OTHER_KEY) for word in WORDS]
    for _ in range(200):
        ear.hear(*forged * 20)
        ear.now_s += 0.05
    assert checked <= 100 + 10 * 50 + 2 * (20 + 10)
    assert len(asked) <= 1 + 10 / 60, "nor is the fleet asked without end"
    assert 200 * 60 - 2 <= ear.counters.malformed_downlinks <= 200 * 60, "all are counted but those that wait"
    assert "who else writes to the broker?" in ear.telemetry.problems()[0]
    ear.now_s += 10.0
    assert ear.hear(fleet_event(DESIRED, **OF)) == (DESIRED,)
    ear.now_s += TOLD_FOR_S + 1.0
    assert ear.telemetry.problems() == (), "a day later it is no news"


def test_the_fleets_word_behind_a_flood_waits_and_is_heard(ear: Ear) -> None:
    ear.hear(*[fleet_event(DESIRED, **OF, key=OTHER_KEY)] * 400, fleet_event(DESIRED, **OF))
    heard: tuple[Payload, ...] = ()
    for _ in range(5):
        ear.now_s += 0.5
        heard += ear.hear()
    assert heard == (DESIRED,)


def test_a_flood_of_forged_acknowledgements_leaves_room_for_the_other_words(ear: Ear) -> None:
    ear.hear(*[fleet_event(ACK, **OF, key=OTHER_KEY)] * 400)
    assert ear.hear(fleet_event(DESIRED, **OF)) == (DESIRED,)


def test_a_flood_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear(tmp_path, fleet_words(TENANT, DEVICE, earliest_s=lambda: NOW))
    for number in range(200):
        ear.hear(fleet_event(DESIRED, **OF, not_after=1 + number))
    assert len(caplog.records) <= 2


@pytest.mark.parametrize(
    ("system_s", "is_kept", "is_obeyed"),
    [
        (0.0, False, True),  # 1970: no battery, no time service
        (0.0, True, True),
        (4.1e9, False, True),  # 2099, and nobody says that this is right
        (4.1e9, True, True),  # beyond what this version can live: not believed, whoever says so
        (NOW + 8 * 86_400, False, True),  # a week later, by a clock that anybody may have set
        (NOW + 8 * 86_400, True, False),  # a week later, by a clock that a time service keeps
        (NOW + 6 * 86_400, True, True),
    ],
)
def test_the_end_of_a_word_is_judged_by_the_earliest_time_that_it_can_be(
    tmp_path: Path, system_s: float, is_kept: bool, is_obeyed: bool
) -> None:
    assert MADE_AFTER_S < NOW < LATEST_S
    boot = [0.0]
    clock = TrustedClock(
        tmp_path / "clock.json",
        system=lambda: system_s + boot[0],
        boot=lambda: boot[0],
        is_kept=lambda: is_kept,
        boot_name="k1",
    )
    clock.wall_s()
    boot[0] = 61.0
    ear = Ear(tmp_path, fleet_words(TENANT, DEVICE, earliest_s=clock.earliest_s))
    said = fleet_event(DESIRED, **OF, not_after=int(NOW) + 7 * 86_400)
    assert ear.hear(said) == ((DESIRED,) if is_obeyed else ())


def test_a_clock_that_was_set_back_revives_nothing(tmp_path: Path) -> None:
    said = fleet_event(DESIRED, **OF, not_after=int(NOW))
    system, boot = [NOW + 100.0], [0.0]
    clock = TrustedClock(
        tmp_path / "clock.json",
        system=lambda: system[0] + boot[0],
        boot=lambda: boot[0],
        is_kept=lambda: True,
        boot_name="k1",
    )
    clock.wall_s()
    boot[0] = 61.0
    ear = Ear(tmp_path, fleet_words(TENANT, DEVICE, earliest_s=clock.earliest_s))
    assert ear.hear(said) == ()
    system[0] -= 30 * 86_400.0
    boot[0] += 1.0
    assert ear.hear(said) == ()
