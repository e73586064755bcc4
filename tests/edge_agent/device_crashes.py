"""What a device does while its disk is watched: `python device_crashes.py ROOT commands|device|installation|privacy` (see `fault_laboratory`).

Each says with `note` what it has promised by then: ``sent ID EPISODE``, ``acked ID``, ``asked VERSION VERDICT``, ``ended RELEASE``, ``began DAY``,
``windows NEWEST``, ``answered KIND``, ``revealed KIND DAY MECHANISM``,
``deed N``, ``told N STATUS``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import agent_loop_world
import agent_world
import commands_world
import installation_world
from commands_world import order
from fake_link import FakeLink
from fault_laboratory.machine_faults import note
from privacy_world import ALL, BARE, Owned, asked, devices, noise

from edge_agent.link import EventKey, Message
from edge_agent.remote.executor import Outcome
from protocol.messages.envelope import decode
from protocol.messages.kinds import CommandStatus, Kind
from protocol.messages.payloads import Ack, AnomalyClosed, AnomalyEvent, BootAck
from protocol.questions import FIT, SCALE
from runtime.durable_files import private_directory


def told(payload: bytes) -> tuple[str, str]:
    """Which event, and of which episode if it is about one: ``open-…`` or ``end-…``."""
    event = decode(payload)
    data = event.data
    about = {AnomalyEvent: "open-", AnomalyClosed: "end-"}.get(type(data))
    return event.id, f"{about}{data.episode}" if about else "-"  # type: ignore[union-attr] # both have one


class NotingLink(FakeLink):
    """Notes what leaves the device."""

    def publish(self, message: Message, key: EventKey, *, retain: bool = False) -> bool:
        note("sent {} {}".format(*told(message.payload)))
        return super().publish(message, key, retain=retain)


def watch(root: Path) -> None:
    """Commission, see three faults and three recoveries over two starts, while the fleet acknowledges late."""
    private_directory(root / "state")  # as the agent does first of all
    for boot, faults in (("b1", 2), ("b2", 1)):
        world = agent_loop_world.World(root, boot)
        link = NotingLink()
        world.agent._telemetry._link = world.link = link
        world.watch(agent_world.healthy(64 if boot == "b1" else 5, seed=3))
        for number in range(faults):
            world.watch(agent_world.faulty(4, seed=number))
            acknowledge(world, through=len(link.sent) - number)
            world.watch(agent_world.healthy(7, seed=number))
        if boot == "b1":
            world.agent._farewell()
            world.outbox.close()


def acknowledge(world: agent_loop_world.World, through: int) -> None:
    """The fleet has stored what was sent, up to a place."""
    for payload in world.link.sent[:through]:
        event = decode(payload)
        note(f"acked {event.id}")
        answer = Ack(boots=(BootAck(boot_id=event.boot_id, ranges=((event.sequence, event.sequence),)),))
        world.arrive(Kind.ACK, answer)
    for _ in range(4):
        world.turn()


def install(root: Path) -> None:
    """Good releases and a harmful one that is undone, with a restart and a kill within trials."""
    device = installation_world.Device(root)
    for version, verdict in ((1, "good"), (2, "good"), (3, "bad"), (4, "good")):
        note(f"asked {version} {verdict}")
        device.submit(device.fleet.offer(installation_world.make_bundle(version), version))
        if version == 3:
            device.restart()
        if version == 4:
            device.crash()
            device.work()
        device.watch(error="the interpreter refused the window" if verdict == "bad" else None)
        note(f"ended {device.release}")
    device.installer.close()


def answer(root: Path) -> None:
    """Three days of answers from a snapshot of each; each is charged, leaves the device, and is revealed."""
    for day in (3, 4, 5):
        note(f"began {day}")
        device = Owned(root, day=day)
        note(f"windows {device.snapshot().machine_s[-1]:.0f}")
        for kind, how in ((SCALE, BARE), (FIT, BARE), (FIT, BARE), (FIT, noise(4.0))):
            question = device.mask(asked(kind, noise=how))
            note(f"answered {kind}")
            device.account.reveal(question, devices(ALL))
            note(f"revealed {kind} {day} {how.mechanism}")
        device.account.close()


WORDS = [
    order(number, action) for number, action in enumerate(("recommission", "diagnose", "recommission"), 5)
]


def obey(root: Path) -> None:
    """Commands of the fleet: one that takes its time, one that is over at once, one more, and a restart between."""
    for life in range(2):
        device = commands_world.Device(root)
        device.note = note
        for deed in device.deeds.values():
            deed.note = note
        slow = device.deeds["recommission"]
        slow.outcome = Outcome(status=CommandStatus.IN_PROGRESS)
        device.hear(*WORDS[: 2 + life], health__every_s=60.0 + life)
        device.turn()
        slow.later = CommandStatus.DONE
        device.turn()


if __name__ == "__main__":
    {"commands": obey, "device": watch, "installation": install, "privacy": answer}[sys.argv[2]](
        Path(sys.argv[1])
    )
