"""What a soak does to its world: one random thing after the other, each taken back after a while.

Random by the seed alone; how long the machine takes for a thing is not in the seed. Never done together, because nothing can
survive it: an agent is not killed while its disk refuses, nor before it had time to write down what waited in memory.
"""

from __future__ import annotations

import errno
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx
from fault_laboratory.road import Cut, Message, Packet
from fault_laboratory.soak_world import HEALTH_EVERY_S, SoakDevice, SoakWorld

__all__ = ["Chaos"]

DAY_S: Final = 86_400.0
STEPS_S: Final = (90.0, 3_600.0, 20 * DAY_S, 400 * DAY_S, 10 * 365 * DAY_S)
EVERY_S: Final = 1.2
"""Between two things done to the world."""
FAULT_EVERY_S: Final = 8.0
"""Between two faults of one machine, on average; each lasts a second or two."""
ROLLOUT_EVERY_S: Final = 40.0
RETRY_S: Final = 2.0


@dataclass(order=True)
class _Later:
    at_s: float
    do: Callable[[], None] = field(compare=False)


class Chaos:
    """Call `turn` often, and `calm` at the end."""

    def __init__(self, world: SoakWorld, seed: int) -> None:
        self._world, self._draw = world, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.version = 1
        self._later: list[_Later] = []
        self._next_s = self._rollout_s = 0.0
        self._faults_s = {device.name: 0.0 for device in world.devices}
        self._healed_s = {device.name: float("-inf") for device in world.devices}
        self._kinds: tuple[tuple[Callable[[float], None], float], ...] = (
            (self._kill_agent, 4),
            (self._cut_power, 3),
            (self._cut_road, 6),
            (self._close_road, 3),
            (self._spoil_road, 4),
            (self._step_clock, 4),
            (self._refuse_disk, 3),
            (self._slow_disk, 1),
            (self._kill_broker, 1),
            (self._kill_fleet, 1),
        )

    def turn(self, now_s: float) -> None:
        """Do what is due; `now_s` is monotonic."""
        for later in [one for one in self._later if one.at_s <= now_s]:
            self._later.remove(later)
            later.do()
        for device in self._world.devices:
            if now_s >= self._faults_s[device.name]:
                self._faults_s[device.name] = now_s + self._draw.expovariate(1 / FAULT_EVERY_S) + 2.0
                device.be_faulty(True)
                self._undo(now_s + 1.0 + self._draw.random(), lambda one=device: one.be_faulty(False))
        if now_s >= self._rollout_s:
            is_due = self._rollout_s > 0
            self._rollout_s = now_s + (RETRY_S if is_due and not self._next_version() else ROLLOUT_EVERY_S)
        if now_s >= self._next_s:
            self._next_s = now_s + self._draw.uniform(0.5, 1.5) * EVERY_S
            kinds, weights = zip(*self._kinds, strict=True)
            [kind] = self._draw.choices(kinds, weights)
            kind(now_s)

    def calm(self) -> None:
        """Take everything back at once."""
        for later in sorted(self._later):
            later.do()
        self._later.clear()
        for device in self._world.devices:
            device.be_faulty(False)

    def _undo(self, at_s: float, do: Callable[[], None]) -> None:
        self._later.append(_Later(at_s, do))

    def _device(self) -> SoakDevice:
        return self._draw.choice(self._world.devices)

    def _kill_agent(self, now_s: float) -> None:
        if (device := self._mortal(now_s)) is not None:
            self._world.supervisor.kill(device.process)
            device.kills += 1
            self.done["agents killed"] += 1

    def _cut_power(self, now_s: float) -> None:
        """What was not fsynced is gone, in one of the ways in which it can be."""
        if (device := self._mortal(now_s)) is not None:
            supervisor = self._world.supervisor
            supervisor.hold(device.process, signal.SIGKILL)
            device.lose_power(self._draw.choice(("cut", "names", "data", "some")), self._draw)
            supervisor.resume(device.process)
            device.kills += 1
            self.done["power cuts"] += 1

    def _mortal(self, now_s: float) -> SoakDevice | None:
        """A device whose agent runs, and has nothing in memory that its disk refused to take."""
        device = self._device()
        has_settled = now_s - self._healed_s[device.name] > 2 * HEALTH_EVERY_S
        is_running = self._world.supervisor.processes[device.process].pid is not None
        return device if is_running and has_settled and not device.is_disk_bad else None

    def _cut_road(self, _now_s: float) -> None:
        cut = self._world.devices if self._draw.random() < 0.2 else [self._device()]
        for device in cut:
            device.mqtt.cut()
            device.https.cut()
        self.done["roads cut"] += len(cut)

    def _close_road(self, now_s: float) -> None:
        device = self._device()
        for road in (device.mqtt, device.https):
            road.close()
            self._undo(now_s + self._draw.uniform(2, 12), lambda one=road: setattr(one, "is_open", True))
        self.done["roads closed"] += 1

    def _spoil_road(self, now_s: float) -> None:
        device, draw = self._device(), random.Random(self._draw.random())
        device.mqtt.rule = self._draw.choice((_loses_acks, _spoiled(draw)))
        self._undo(now_s + self._draw.uniform(5, 12), lambda: setattr(device.mqtt, "rule", _as_it_is))
        self.done["roads spoilt"] += 1

    def _step_clock(self, now_s: float) -> None:
        device = self._device()
        device.faults.step_clock(self._draw.choice(STEPS_S) * self._draw.choice((-1, 1)))
        device.is_clock_wrong = True

        def right() -> None:
            device.faults.step_clock(0.0)
            device.is_clock_wrong = False

        self._undo(now_s + self._draw.uniform(4, 20), right)
        self.done["clock steps"] += 1

    def _refuse_disk(self, now_s: float) -> None:
        device = self._device()
        if device.is_disk_bad:
            return
        device.is_disk_bad = True
        if (error := self._draw.choice((errno.ENOSPC, errno.EIO, errno.EROFS))) == errno.ENOSPC:
            device.faults.fill()
        else:
            device.faults.refuse(error)

        def heal() -> None:
            device.faults.heal()
            device.is_disk_bad = False

        until_s = now_s + self._draw.uniform(2, 8)
        self._healed_s[device.name] = until_s
        self._undo(until_s, heal)
        self.done["disks refused"] += 1

    def _slow_disk(self, now_s: float) -> None:
        device = self._device()
        device.faults.slow_down(0.2)
        self._undo(now_s + 10.0, lambda: device.faults.slow_down(0.0))
        self.done["disks slowed"] += 1

    def _kill_broker(self, _now_s: float) -> None:
        if self._world.supervisor.processes["broker"].pid is not None:
            self._world.supervisor.kill("broker")
            self.done["broker killed"] += 1

    def _kill_fleet(self, now_s: float) -> None:
        supervisor = self._world.supervisor
        process = supervisor.processes["fleet"]
        if process.pid is None or process.is_held:
            return
        if self._draw.random() < 0.5:
            supervisor.kill("fleet")
        else:
            supervisor.hold("fleet")
            self._undo(now_s + self._draw.uniform(3, 10), lambda: supervisor.resume("fleet"))
        self.done["fleet ended"] += 1

    def _next_version(self) -> bool:
        if not self._world.is_rollout_over():
            return False
        try:
            self._world.publish(self.version + 1, tries=1)
            self._world.roll_out(self.version + 1, tries=1)
        except (
            httpx.HTTPError
        ):  # the fleet has just been ended: what it did of this is done, the rest comes later
            return False
        self.version += 1
        self.done["rollouts"] += 1
        return True


def _as_it_is(message: Message) -> list[bytes]:
    return [message.content]


def _loses_acks(message: Message) -> list[bytes]:
    """The broker greets and answers pings; nothing is ever acknowledged, by it or by the fleet."""
    is_lost = not message.from_device and message.packet in {Packet.PUBACK, Packet.PUBLISH}
    return [] if is_lost else [message.content]


def _spoiled(draw: random.Random) -> Callable[[Message], list[bytes]]:
    def rule(message: Message) -> list[bytes]:
        match draw.randrange(12):
            case 0:
                raise Cut(message.content[: draw.randrange(len(message.content))])
            case 1:
                return []
            case 2:
                return [message.content, message.content]
            case _:
                return [message.content]

    return rule
