"""One hollow device: what it says, numbered and sealed, until the fleet has it; and which of the fleet's words it obeys.

No I/O: what is to be sent is handed back, what came is handed in. Beside its keys it holds what it has said and nobody has
acknowledged, and a byte for each event of this boot, so that the accounts can be exact.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.word_order import FARTHEST_LEAP
from protocol.errors import ProtocolError
from protocol.messages.commands import Command, CommandResult, Commands, SettingInForce, outdated
from protocol.messages.envelope import Event, decode, encode, kind_of
from protocol.messages.kinds import (
    CommandAction,
    CommandStatus,
    DeathReason,
    InstallStatus,
    InstallStep,
    Kind,
    RefusalCode,
    SettingSource,
)
from protocol.messages.payloads import (
    Ack,
    Birth,
    Death,
    DesiredState,
    InstallReport,
    Payload,
)
from protocol.sealed_events import SEALED_BY_DEVICES, check_seal, seal
from protocol.topics import device_topic
from simulations.hollow.figures import Temper, anomaly_end, anomaly_event
from simulations.hollow.ledger import Ledger, Notice
from simulations.hollow.members import Member

__all__ = ["KIND_CODES", "Crowdwide", "Device", "Memory", "Said"]

VERSION: Final = "hollow"
KIND_CODES: Final = {kind: code for code, kind in enumerate(Kind, 1)}
"""A byte for each kind; 0 is no event."""


class Said(NamedTuple):
    """A message that is to be sent: on which topic, and under which number."""

    topic: bytes
    payload: bytes
    sequence: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a device keeps over a restart of the crowd."""

    release: str | None = None
    counter: int = 0
    obeyed: int = 0
    done: int = 0


@dataclass(kw_only=True)
class Crowdwide:
    """What all devices of a crowd have in common.

    fleet_keys: whose words are obeyed.
    boot_number: which start of the crowd this is.
    window_values: raw values that an anomaly carries; 0: none.
    failure_share: how many installations of a release that is new to the device fail, in [0, 1].
    checked_acks: of how many acknowledgements the seal is checked, in [0, 1]; of every other word it always is.
    now: Unix seconds.
    """

    tenant: str
    family: str
    hardware: str
    fleet_keys: tuple[EllipticCurvePublicKey, ...]
    boot_number: int
    health_s: float
    window_values: int
    failure_share: float
    checked_acks: float = 1.0
    now: Callable[[], float]
    random: random.Random
    ledger: Ledger


class Device:
    """One of a crowd; see the module."""

    __slots__ = (
        "_all",
        "_boot",
        "_commanded",
        "_counter",
        "_done",
        "_episode",
        "_member",
        "_obeyed",
        "_proven",
        "_release",
        "_sequence",
        "_settings",
        "_temper",
        "_topics",
        "_wanted",
        "kinds",
        "name",
        "waiting",
    )  # fmt: skip - one line of names

    def __init__(self, member: Member, crowd: Crowdwide, memory: Memory) -> None:
        self.name, self._member, self._all = member.name, member, crowd
        self._boot = secrets.token_hex(8)
        self._sequence = 0
        self._release, self._counter = memory.release, memory.counter
        self._obeyed, self._done = memory.obeyed, memory.done
        self._proven = {memory.release} if memory.release else set()
        self._settings: tuple[SettingInForce, ...] = ()
        self._wanted: DesiredState | None = None
        self._episode = ""
        self._temper = Temper.drawn(crowd.random)
        self._topics: dict[Kind, bytes] = {}
        self.waiting: dict[int, tuple[Said, float, int]] = {}  # when it was said, and how often again
        self.kinds = bytearray(1)

    @property
    def boot(self) -> str:
        """The id of this start."""
        return self._boot

    @property
    def ledger(self) -> Ledger:
        """Of the crowd."""
        return self._all.ledger

    @property
    def memory(self) -> Memory:
        """What is kept for the next start."""
        return Memory(release=self._release, counter=self._counter, obeyed=self._obeyed, done=self._done)

    def filters(self) -> list[str]:
        """What it listens to."""
        return [self._topic(kind).decode() for kind in (Kind.DESIRED, Kind.ACK, Kind.COMMANDS)]

    def will(self) -> tuple[str, bytes]:
        """What the broker says when this device is lost."""
        event = self._event(Death(reason=DeathReason.LOST), 0)
        return self._topic(Kind.DEATH).decode(), encode(event)

    def birth(self) -> Said:
        """That it is here."""
        everyone = self._all
        return self._say(
            Birth(
                agent_version=VERSION,
                hardware=everyone.hardware,
                family=everyone.family,
                release=self._release,
                runtime="hollow",
                labels={"hollow": "yes"},
            )
        )

    def farewell(self) -> Said:
        """That it goes."""
        return self._say(Death(reason=DeathReason.SHUTDOWN))

    def health(self, uptime_s: float) -> Said:
        """Its figures of the last interval."""
        everyone = self._all
        return self._say(
            self._temper.health(
                everyone.random,
                release=self._release,
                uptime_s=uptime_s,
                interval_s=everyone.health_s,
                outbox_events=len(self.waiting),
                obeyed=self._obeyed,
                settings=self._settings,
            )
        )

    def anomaly(self, observed_at_s: float) -> Said:
        """An anomaly begins; where one is open, it ends."""
        draw, release = self._all.random, self._release or f"{self._all.family}/0"
        if self._episode:
            episode, self._episode = self._episode, ""
            return self._say(anomaly_end(draw, episode=episode, release=release, observed_at_s=observed_at_s))
        self._episode = f"{self._boot}-{self._sequence + 1}"
        return self._say(
            anomaly_event(
                draw,
                episode=self._episode,
                release=release,
                observed_at_s=observed_at_s,
                window_values=self._all.window_values,
            )
        )

    def hear(self, kind: Kind, payload: bytes) -> list[Said]:
        """What is said at once to a message of the fleet; one that is not the fleet's is counted and not obeyed."""
        if not payload:  # a retained word was taken away
            return []
        try:
            event = decode(payload, kind)
            if kind is not Kind.ACK or self._all.random.random() < self._all.checked_acks:
                check_seal(
                    event,
                    self._all.fleet_keys,
                    tenant=self._all.tenant,
                    device=self.name,
                    now_s=self._all.now(),
                )
        except ProtocolError:
            self._all.ledger.forged += 1
            return []
        match event.data:
            case Ack() as ack:
                self._forget(ack)
                return []
            case DesiredState() as desired:
                return self._desire(desired)
            case Commands() as commands:
                return self._obey(commands)
            case _:
                return []

    def installed(self, counter: int) -> list[Said]:
        """The pause that stands for an installation is over; nothing where another one has begun since."""
        desired, ledger = self._wanted, self._all.ledger
        if desired is None or desired.counter != counter:
            return []
        self._wanted = None
        is_new = desired.release not in self._proven
        if is_new and self._all.random.random() < self._all.failure_share:
            ledger.ended[InstallStatus.FAILED] += 1
            reason = "a hollow device was told to fail"
            return [self._report(desired, InstallStep.FAILED, InstallStatus.FAILED, reason)]
        self._release = desired.release
        self._proven.add(desired.release)
        ledger.ended[InstallStatus.SUCCEEDED] += 1
        ledger.installed.append(Notice(self.name, self._all.now(), desired.release, desired.counter))
        return [self._report(desired, InstallStep.COMMITTED, InstallStatus.SUCCEEDED)]

    @property
    def installing(self) -> int:
        """The counter of the desired state that is being installed; 0: none is."""
        return self._wanted.counter if self._wanted else 0

    def _desire(self, desired: DesiredState) -> list[Said]:
        if desired.counter == self._counter:
            return []
        if desired.counter < self._counter:
            return self._too_late(Kind.DESIRED, desired.counter, self._counter)
        if desired.counter - self._counter > FARTHEST_LEAP:
            return [
                self._report(desired, InstallStep.REJECTED, InstallStatus.REJECTED, "a leap of the counter")
            ]
        self._counter, self._wanted = desired.counter, desired
        self._all.ledger.notices.append(Notice(self.name, self._all.now(), desired.release, desired.counter))
        return [self._report(desired, InstallStep.DOWNLOADING, InstallStatus.IN_PROGRESS)]

    def _obey(self, commands: Commands) -> list[Said]:
        if commands.counter == self._obeyed:
            return []
        if commands.counter < self._obeyed:
            return self._too_late(Kind.COMMANDS, commands.counter, self._obeyed)
        if commands.counter - self._obeyed > FARTHEST_LEAP:
            return []
        self._obeyed = commands.counter
        self._settings = tuple(
            SettingInForce(
                name=name, value=None, source=SettingSource.DEFAULT, refused="a hollow device has no settings"
            )
            for name in commands.settings
        )
        new = [one for one in commands.outstanding if one.number > self._done]
        self._done = max([self._done, *(one.number for one in new)])
        return [self._say(self._answer(one)) for one in new]

    def _answer(self, command: Command) -> CommandResult:
        is_done = command.action == CommandAction.REACTIVATE and self._release is not None
        self._all.ledger.answered[command.action] += 1
        return CommandResult(
            number=command.number,
            action=command.action,
            status=CommandStatus.DONE if is_done else CommandStatus.REFUSED,
            code="" if is_done else RefusalCode.FORBIDDEN,
            reason="" if is_done else "a hollow device has no machine and no model to do that with",
        )

    def _too_late(self, kind: Kind, counter: int, known: int) -> list[Said]:
        self._all.ledger.late += 1
        return [self._say(outdated(kind, counter, known))]

    def _report(
        self, desired: DesiredState, step: InstallStep, status: InstallStatus, reason: str = ""
    ) -> Said:
        return self._say(
            InstallReport(
                execution=desired.execution,
                release=desired.release,
                counter=desired.counter,
                step=step,
                status=status,
                reason=reason,
                active_release=self._release,
            )
        )

    def _forget(self, ack: Ack) -> None:
        ledger, now = self._all.ledger, self._all.now()
        for boot in ack.boots:
            if boot.boot_id != self._boot:
                continue  # of an earlier start: what waited then is gone with it
            for first, last in boot.ranges:
                if last > self._sequence:
                    ledger.unknown_acks += 1
                for sequence in _within(self.waiting, first, last):
                    _, sent_at, resent = self.waiting.pop(sequence)
                    ledger.acked += 1
                    if not resent:
                        ledger.ack_s.append(now - sent_at)
        for event in ack.refused:
            if event.boot_id == self._boot and self.waiting.pop(event.sequence, None) is not None:
                ledger.refused += 1
                self.kinds[event.sequence] = 0

    def again(self, sequence: int) -> Said | None:
        """An event that is to be sent once more; None where it was acknowledged."""
        found = self.waiting.get(sequence)
        if found is None:
            return None
        self.waiting[sequence] = (found[0], found[1], found[2] + 1)
        self._all.ledger.resent += 1
        return found[0]

    def _say(self, data: Payload) -> Said:
        self._sequence += 1
        event = self._event(data, self._sequence)
        kind = kind_of(data)
        if kind in SEALED_BY_DEVICES:
            event = seal(
                event,
                self._member.identity,
                tenant=self._all.tenant,
                device=self.name,
                nonce=secrets.token_hex(16),
            )
        said = Said(self._topic(kind), encode(event), self._sequence)
        self.waiting[self._sequence] = (said, event.time, 0)
        self.kinds.append(KIND_CODES[kind])
        self._all.ledger.sent[kind] += 1
        return said

    def _event(self, data: Payload, sequence: int) -> Event:
        return Event(
            source=self.name,
            boot_id=self._boot,
            boot_number=self._all.boot_number,
            sequence=sequence,
            time=self._all.now(),
            data=data,
        )

    def _topic(self, kind: Kind) -> bytes:
        found = self._topics.get(kind)
        if found is None:
            found = self._topics[kind] = device_topic(self._all.tenant, self.name, kind).encode()
        return found


def _within(waiting: Iterable[int], first: int, last: int) -> list[int]:
    return [sequence for sequence in waiting if first <= sequence <= last]
