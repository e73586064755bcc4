"""The crowd at work: connects all its devices, keeps each at its pace, and hands what comes to the device it is for.

One asyncio loop, no task a device. What is due is looked for fifty times a second: health in turn, anomalies of whoever the dice
say, what was not acknowledged in time, and installations that have taken their pause.

::

    seats ─► dial (some at once) ─► session ─► device.hear ─► said ─► session.publish
      ▲──────── lost: a jittered pause ─┘                       └─► not acknowledged after resend_s: once more
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final

from protocol.messages.kinds import Kind
from runtime.backoff import backoff_s
from service.mqtt_packets import Published
from simulations.hollow.device import Crowdwide, Device, Said
from simulations.hollow.ledger import Ledger
from simulations.hollow.members import Member
from simulations.hollow.session import Broker, Session

__all__ = ["Crowd", "Pace"]

TICK_S: Final = 0.02
DIALS_AT_ONCE: Final = 40
"""Below Mosquitto's backlog of a hundred connections that it has not accepted yet."""

LONGEST_PAUSE_S: Final = 5.0
"""Before a device dials again; an agent's own."""

BURST: Final = 2000
"""Messages in one turn, so that a machine that was busy does not read nothing for long."""

LONGEST_RESEND_S: Final = 600.0
"""The pause before an event is sent again doubles up to this, as an agent's does: a fleet that is behind is not buried."""

LOOK_ALIVE_S: Final = 20.0
"""A device without anything to say pings as often."""


@dataclass(kw_only=True)
class Pace:
    """How much is said and how fast it is obeyed; may be changed while the crowd is at work.

    health_s: between two health messages of a device; 0: none.
    events_per_s: anomalies, and their ends, of all devices together.
    install_s: what an installation takes, half to one and a half of it.
    resend_s: after which what was not acknowledged is sent again; an agent's own is 10 s.
    dials_per_s: devices that connect in a second at most.
    """

    health_s: float = 30.0
    events_per_s: float = 0.0
    install_s: float = 1.0
    resend_s: float = 10.0
    dials_per_s: float = 500.0


class _Seat:
    """A device and its connection."""

    __slots__ = ("began", "device", "failed", "member", "said_at", "session", "unsent")

    def __init__(self, device: Device, member: Member) -> None:
        self.device, self.member = device, member
        self.session: Session | None = None
        self.failed, self.began, self.said_at = 0, 0.0, 0.0
        self.unsent: list[Said] = []


class Crowd:
    """All devices of a run.

    Args:
        devices: with their members, in the order in which they connect.
        everyone: what they have in common.
        broker: where they connect.
        pace: how much they say.
    """

    def __init__(
        self, devices: Sequence[tuple[Device, Member]], everyone: Crowdwide, broker: Broker, pace: Pace
    ) -> None:
        self._seats = [_Seat(device, member) for device, member in devices]
        self._everyone, self._broker, self.pace = everyone, broker, pace
        self._waiting_to_dial = deque(self._seats)
        # by when they are due; the turn decides between equals
        self._unacknowledged: list[tuple[float, int, _Seat, int]] = []
        self._installations: list[tuple[float, int, _Seat, int]] = []
        self._turns = count()
        self._in = 0
        self._next_health = self._next_alive = 0
        self._health_owed = self._events_owed = 0.0
        self.everybody_in = asyncio.Event()

    @property
    def devices(self) -> list[Device]:
        """Every device."""
        return [seat.device for seat in self._seats]

    @property
    def ledger(self) -> Ledger:
        """What was seen so far."""
        return self._everyone.ledger

    @property
    def connected(self) -> int:
        """Devices that are connected now."""
        return self._in

    async def run(self) -> None:
        """Connect everybody and go on until canceled; sessions stay open then, see `leave`."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(DIALS_AT_ONCE):
                tasks.create_task(self._dial_all())
            tasks.create_task(self._keep_pace())

    async def settle(self, patience: Callable[[], bool]) -> bool:
        """Say nothing new, and wait until everything is acknowledged; False where `patience` was used up before.

        `run` must go on meanwhile: what is lost on the way is sent again.
        """
        self.pace.events_per_s = self.pace.health_s = 0.0
        while self.ledger.waiting:
            if patience():
                return False
            await asyncio.sleep(0.1)
        return True

    def farewell(self) -> None:
        """Every device that is connected says that it goes."""
        for seat in self._seats:
            if seat.session is not None:
                self._send(seat, seat.device.farewell())

    def leave(self) -> None:
        """Hang up in good order."""
        for seat in self._seats:
            if seat.session is not None:
                seat.session.hang_up()
                seat.session = None
        self._in = 0

    async def _dial_all(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), DIALS_AT_ONCE / self.pace.dials_per_s
        while True:
            if not self._waiting_to_dial:
                await asyncio.sleep(0.1)
                continue
            seat, began = self._waiting_to_dial.popleft(), loop.time()
            await self._dial(seat)
            await asyncio.sleep(max(0.0, pause_s - (loop.time() - began)))

    async def _dial(self, seat: _Seat) -> None:
        device, loop = seat.device, asyncio.get_running_loop()
        try:
            session = await self._broker.dial(
                device.name,
                seat.member.file,
                will=device.will(),
                filters=device.filters(),
                hear=partial(self._hear, seat),
                lost=partial(self._lost, seat),
            )
        except OSError:
            self.ledger.refusals += 1
            self._dial_later(seat)
            return
        if not session.is_open:  # lost between its welcome and here
            self._dial_later(seat)
            return
        seat.session, seat.failed = session, 0
        self.ledger.connects += 1
        self._in += 1
        # what the broker kept of the last time it lost this device is true no more
        topic, _ = device.will()
        session.publish(topic.encode(), b"", retain=True)
        if not seat.began:
            seat.began = loop.time()
            self._send(seat, device.birth())
        unsent, seat.unsent = seat.unsent, []
        for said in unsent:
            session.publish(said.topic, said.payload)
        if self._in == len(self._seats):
            self.everybody_in.set()

    def _lost(self, seat: _Seat) -> None:
        if seat.session is None:  # in the middle of its greeting: the dialler knows
            return
        seat.session = None
        self._in -= 1
        self.ledger.losses += 1
        self._dial_later(seat)

    def _dial_later(self, seat: _Seat) -> None:
        seat.failed += 1
        draw = self._everyone.random.random()
        pause_s = backoff_s(seat.failed, first_s=0.5, maximum_s=LONGEST_PAUSE_S, draw=draw)
        asyncio.get_running_loop().call_later(pause_s, self._waiting_to_dial.append, seat)

    def _hear(self, seat: _Seat, message: Published) -> None:
        kind = message.topic.rpartition("/")[2]
        if kind not in _HEARD:
            return
        before = seat.device.installing
        for said in seat.device.hear(_HEARD[kind], message.payload):
            self._send(seat, said)
        counter = seat.device.installing
        if counter not in {0, before}:
            pause_s = self.pace.install_s * self._everyone.random.uniform(0.5, 1.5)
            due = asyncio.get_running_loop().time() + pause_s
            heapq.heappush(self._installations, (due, next(self._turns), seat, counter))

    def _send(self, seat: _Seat, said: Said) -> None:
        now = asyncio.get_running_loop().time()
        due = now + self.pace.resend_s
        heapq.heappush(self._unacknowledged, (due, next(self._turns), seat, said.sequence))
        if seat.session is None:
            seat.unsent.append(said)
            return
        seat.said_at = now
        seat.session.publish(said.topic, said.payload)

    async def _keep_pace(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            now = loop.time()
            passed_s, last = now - last, now
            self.ledger.behind_s = max(self.ledger.behind_s, passed_s - TICK_S)
            self._say_health(passed_s, now)
            self._say_events(passed_s, now)
            self._say_alive(passed_s, now)
            self._install(now)
            self._send_again(now)
            await asyncio.sleep(max(0.0, now + TICK_S - loop.time()))

    def _say_health(self, passed_s: float, now: float) -> None:
        if not self.pace.health_s:
            return
        self._health_owed = min(
            self._health_owed + passed_s * len(self._seats) / self.pace.health_s, len(self._seats)
        )
        for _ in range(min(int(self._health_owed), BURST)):
            self._health_owed -= 1
            seat = self._seats[self._next_health]
            self._next_health = (self._next_health + 1) % len(self._seats)
            if seat.session is not None:
                self._send(seat, seat.device.health(now - seat.began))

    def _say_events(self, passed_s: float, now: float) -> None:
        if not self.pace.events_per_s or not self.everybody_in.is_set():
            return
        self._events_owed = min(
            self._events_owed + passed_s * self.pace.events_per_s, 5 * self.pace.events_per_s
        )
        draw, seats = self._everyone.random, self._seats
        for _ in range(min(int(self._events_owed), BURST)):
            self._events_owed -= 1
            seat = seats[int(draw.random() * len(seats))]
            if seat.session is not None:
                self._send(seat, seat.device.anomaly(now - seat.began))

    def _say_alive(self, passed_s: float, now: float) -> None:
        """Look at each device once in a while; ping for those that have said nothing for long."""
        looked_at = min(int(passed_s * len(self._seats) / LOOK_ALIVE_S) + 1, len(self._seats))
        for _ in range(looked_at):
            seat = self._seats[self._next_alive]
            self._next_alive = (self._next_alive + 1) % len(self._seats)
            if seat.session is not None and now - seat.said_at > LOOK_ALIVE_S:
                seat.said_at = now
                seat.session.ping()

    def _install(self, now: float) -> None:
        while self._installations and self._installations[0][0] <= now:
            _, _, seat, counter = heapq.heappop(self._installations)
            for said in seat.device.installed(counter):
                self._send(seat, said)

    def _send_again(self, now: float) -> None:
        for _ in range(BURST):
            if not self._unacknowledged or self._unacknowledged[0][0] > now:
                return
            _, _, seat, sequence = heapq.heappop(self._unacknowledged)
            if sequence not in seat.device.waiting:
                continue
            pause_s = self.pace.resend_s
            if seat.session is not None and (said := seat.device.again(sequence)) is not None:
                seat.session.publish(said.topic, said.payload)
                resent = seat.device.waiting[sequence][2]
                pause_s = min(pause_s * 2.0**resent, max(pause_s, LONGEST_RESEND_S))
            heapq.heappush(self._unacknowledged, (now + pause_s, next(self._turns), seat, sequence))


_HEARD: Final = {kind.value: kind for kind in (Kind.ACK, Kind.DESIRED, Kind.COMMANDS)}
