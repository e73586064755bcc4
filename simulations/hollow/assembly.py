"""Puts a crowd together: members from the folder or by enrolment, the fleet's keys from its signed repository, what was kept.

::

    <folder>/devices/…      keys and certificates (`members`)
    <folder>/crowd.json     how often the crowd was started, and what each device runs and has obeyed
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.errors import FleetError, FleetNotFoundError, UpdateTrustError
from edge_agent.fleet_client import FleetClient
from edge_agent.fleet_endpoint import FleetEndpoint
from edge_agent.update_trust_client import believe
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import FedgeError
from runtime.unreadable import UNREADABLE
from simulations.errors import ProcessFailedError, ScenarioError
from simulations.hollow.crowd import Crowd, Pace
from simulations.hollow.device import Crowdwide, Device, Memory
from simulations.hollow.ledger import Ledger
from simulations.hollow.members import Member, enrol_members, enrolled_members, member_name
from simulations.hollow.place import Place
from simulations.hollow.session import Broker

__all__ = ["CrowdFile", "Plan", "make_crowd", "make_plan", "save_crowd"]

KEEPALIVE_S: Final = 60

_PACE: Final = frozenset({"install_s", "resend_s", "dials_per_s"})
MORE: Final[dict[str, tuple[type[int | float | str], float, float]]] = {
    "install_s": (float, 0.0, 86_400.0),
    "resend_s": (float, 0.1, 86_400.0),
    "dials_per_s": (float, 1.0, 10_000.0),
    "failure_share": (float, 0.0, 1.0),
    "checked_acks": (float, 0.0, 1.0),
    "window_values": (int, 0, 8192),
    "seed": (int, 0, 2**63),
    "prefix": (str, 0, 0),
}
"""What ``--set`` knows: its type, and its bounds where it is a number."""


class CrowdFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a crowd remembers: its starts so far, and its devices by name."""

    starts: int = 0
    devices: dict[str, Memory] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a crowd shall be.

    devices: how many.
    prefix: of their names.
    pace: what they say.
    window_values, failure_share, checked_acks: see `Crowdwide`.
    seed: of everything that is drawn but keys.
    """

    devices: int
    prefix: str = "hollow"
    pace: Pace
    window_values: int = 64
    failure_share: float = 0.0
    checked_acks: float = 1.0
    seed: int = 1


def make_plan(devices: int, *, health_s: float, events_per_s: float, more: Iterable[str]) -> Plan:
    """A plan of the command line: `more` are ``name=value`` of what is set more rarely; raises ScenarioError."""
    pace, plan = Pace(health_s=health_s, events_per_s=events_per_s), dict[str, Any]()
    for one in more:
        name, _, value = one.partition("=")
        if name not in MORE:
            raise ScenarioError(f"--set {one!r} is not known; valid names are {', '.join(sorted(MORE))}")
        kind, least, most = MORE[name]
        try:
            read = kind(value)
        except ValueError:
            raise ScenarioError(f"--set {one!r}: {value!r} is no {kind.__name__}") from None
        if not isinstance(read, str) and not least <= read <= most:
            raise ScenarioError(f"--set {one!r} is out of bounds: {least:g} to {most:g} are valid")
        if name in _PACE:
            setattr(pace, name, read)
        else:
            plan[name] = read
    return Plan(devices=devices, pace=pace, **plan)


def make_crowd(
    plan: Plan,
    place: Place,
    folder: Path,
    claims: Callable[[int], list[str]],
    told: Callable[[int, int], None],
) -> Crowd:
    """A crowd that is enrolled, and not yet connected.

    Args:
        plan: what it shall be.
        place: where it belongs.
        folder: its own; enrolled devices of an earlier run are taken from there.
        claims: gives so many claim tokens, or as many as there are.
        told: hears how many of how many devices are enrolled.

    Raises:
        SimulationError: see `enrol_members`; also where the fleet's signed repository is not believed.
    """
    names = [member_name(number, plan.prefix) for number in range(1, plan.devices + 1)]
    members = enrolled_members(folder, names)
    missing = [name for name in names if name not in members]
    told(len(members), len(names))
    if missing:
        before = len(members)
        for member in enrol_members(
            place, folder, missing, claims(len(missing)), lambda done: told(before + done, len(names))
        ):
            members[member.name] = member
    kept = _read_crowd_file(folder)
    everyone = Crowdwide(
        tenant=place.tenant,
        family=place.family,
        hardware=place.hardware,
        fleet_keys=_fleet_keys(place, members[names[0]]),
        boot_number=kept.starts + 1,
        health_s=plan.pace.health_s,
        window_values=plan.window_values,
        failure_share=plan.failure_share,
        checked_acks=plan.checked_acks,
        now=time.time,
        random=random.Random(plan.seed),
        ledger=Ledger(),
    )
    # before the first word: a start that is counted twice would look like two devices with one name
    _write_crowd_file(folder, msgspec.structs.replace(kept, starts=kept.starts + 1))
    devices = [
        (Device(members[name], everyone, kept.devices.get(name, Memory())), members[name]) for name in names
    ]
    broker = Broker(place.broker_host, place.broker_port, place.broker_ca, keepalive_s=KEEPALIVE_S)
    return Crowd(devices, everyone, broker, plan.pace)


def save_crowd(folder: Path, crowd: Crowd) -> None:
    """Keep what the devices run and have obeyed; raises StorageError."""
    kept = _read_crowd_file(folder)
    devices = kept.devices | {device.name: device.memory for device in crowd.devices}
    _write_crowd_file(folder, msgspec.structs.replace(kept, devices=devices))


def _fleet_keys(place: Place, member: Member) -> tuple[EllipticCurvePublicKey, ...]:
    """Whose words are obeyed, as every device would find out: from the pinned root on."""
    try:
        client = FleetClient(
            endpoint=FleetEndpoint(url=place.fleet_url, ca_file=place.fleet_ca, timeout_s=30.0),
            device=member.name,
            key=member.identity,
        )

        def read(name: str, most_bytes: int) -> bytes | None:
            try:
                return client.trust_file(name, most_bytes).content
            except FleetNotFoundError:
                return None

        return believe(place.root.read_bytes(), place.family, read, now_s=time.time()).fleet_keys
    except OSError as error:
        raise ScenarioError(f"the pinned root {place.root} cannot be read: {error}") from None
    except (FleetError, UpdateTrustError, FedgeError) as error:
        raise ProcessFailedError(f"the fleet's signed repository is not believed: {error}") from None


def _read_crowd_file(folder: Path) -> CrowdFile:
    content = read_bytes(folder / "crowd.json")
    if content is None:
        return CrowdFile()
    try:
        return msgspec.json.decode(content, type=CrowdFile)
    except UNREADABLE as error:
        raise ScenarioError(
            f"{folder / 'crowd.json'} is damaged ({error}); remove it, and the devices begin anew"
        ) from None


def _write_crowd_file(folder: Path, content: CrowdFile) -> None:
    write_durably(folder / "crowd.json", msgspec.json.encode(content), mode=0o600)
