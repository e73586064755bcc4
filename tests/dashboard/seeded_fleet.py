"""A fleet on disk whose past is written by the fleet's own code on a clock of its own: enrolment, ingest, rollouts, verdicts.

::

    clock ─► machines say ─► EventStore ─► tables ◄─ RolloutEngine ◄─ plans, verbs
                                 ▲                        │ desired states
                                 └──── machines obey ◄────┘

Nothing is put into a table by hand that a device or a person could have said. `seeded_story` says what happened.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_world import TENANT, Machine, Told, bundle, operator_token
from sqlalchemy import select
from trust_world import Keys, list_bundles, make_repository

from fleet.auth.claim_tokens import ClaimTerms, create_claims
from fleet.device_ca import DeviceCa
from fleet.enrolment import Enrolments
from fleet.ingest.judging import Arrival
from fleet.ingest.store import EventStore
from fleet.instruction_key import InstructionKey
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.release_lists import note_listed
from fleet.releases import ReleaseStore
from fleet.retention.health_blocks import HealthRollUp
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.operations import create_rollout
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.verbs import Verb
from fleet.storage.device_tables import Desired
from protocol.enrolment import EnrolmentQuestion
from protocol.manifest import Provenance
from protocol.messages.kinds import InstallStatus, InstallStep
from protocol.messages.payloads import InstallReport, Payload
from service.roles import Caller, Role

__all__ = [
    "AGGREGATOR",
    "ANN",
    "BOB",
    "FAMILIES",
    "OFFLINE_AFTER_S",
    "SeededFleet",
    "installed",
    "machine_of",
]

FAMILIES = ("motor", "pump", "fan", "press", "lathe", "conveyor")
ANN = Caller(name="ann", role=Role.OPERATOR, person="ann")
BOB = Caller(name="bob", role=Role.ADMIN, person="bob")
AGGREGATOR = Caller(name="aggregator", role=Role.PUBLISHER)
OFFLINE_AFTER_S = 6 * 3600.0
"""So that devices which do not speak while a test looks at them stay what they are."""


class SeededFleet:
    """A data folder and a database, and what may happen in them.

    Args:
        folder: empty; gets ``data`` with the signed repository, the device CA and SQLite.
        now: Unix seconds at which the story begins.
        is_polite: nobody says anything hostile: for pictures.
    """

    def __init__(self, folder: Path, now: float, *, is_polite: bool = False) -> None:
        self.folder, self.now, self.is_polite = folder, now, is_polite
        self.data = folder / "data"
        self.key = Ed25519PrivateKey.generate()
        self.data.mkdir(parents=True)
        instruction_key = InstructionKey(self.data).current()
        keys = Keys(families=dict.fromkeys(FAMILIES, self.key), fleet=instruction_key)
        self.trust = make_repository(self.data, keys, now=now)
        self.database = open_storage(f"sqlite:///{self.data}/fleet.sqlite")
        self.releases = ReleaseStore(self.database, self.data / "releases", self.trust)
        self.machines: dict[str, Machine] = {}
        self.runs: dict[str, str] = {}
        self.idle: set[str] = set()
        self.told = Told()
        self.engine = RolloutEngine(
            self.database, self.told, now=lambda: self.now, offline_after_s=OFFLINE_AFTER_S
        )
        self.store = EventStore(self.database, TENANT, FleetMetrics())
        self._obeyed: dict[str, int] = {}
        authority = DeviceCa(self.data, tenant=TENANT, random_bytes=secrets.token_bytes)
        authority.ensure(now)
        self._enrolments = Enrolments(
            self.database,
            authority,
            tenant=TENANT,
            reserved=(),
            certificate_lifetime_s=30 * 86400.0,
        )

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    def evil(self, text: str) -> str:
        """A hostile text, where there are any."""
        return "" if self.is_polite else text

    def token(self, name: str, role: Role, **grant: Any) -> str:
        """A new operator's token."""
        with self.database.write() as session:
            return operator_token(session, name, role, now=self.now, **grant)

    def enrol(self, names: Iterable[str], *, family: str, site: str = "hall-1", **said: Any) -> None:
        """Let devices in by a claim each; `said` is of the claim's terms, and `hardware` and `reported` the device's own word."""
        names = list(names)
        own = {"hardware": said.pop("hardware", "rpi4"), "labels": said.pop("reported", {})}
        terms = ClaimTerms(**{"name": f"batch-{family}", "family": family, "site": site} | said)
        with self.database.write() as session:
            claims = create_claims(session, terms, len(names), now=self.now, random_bytes=secrets.token_bytes)
        for name, claim in zip(names, claims, strict=True):
            machine = self.machines[name] = machine_of(name)
            question = msgspec.convert(machine.enrolment(family=family, **own), EnrolmentQuestion)
            self._enrolments.enrol(question, claim, self.now)

    def publish(self, family: str, version: int, provenance: Provenance | None = None) -> None:
        """Publish a release and list it in the signed repository."""
        content = bundle(
            version,
            key=self.key,
            family=family,
            content=f"{family} {version}".encode(),
            provenance=provenance,
        )
        self.releases.publish(content, caller=AGGREGATOR, now=self.now)
        list_bundles(self.trust, {f"{family}/{version}": content}, self.key, now=self.now)
        note_listed(self.database, self.trust, actor="publisher:aggregator", now=self.now)

    def say(self, device: str, data: Payload, *, at: float | None = None) -> Arrival:
        """What `device` sends at Unix seconds `at`; `hear` stores it."""
        return self.machines[device].arrival(data, at=self.now if at is None else at)

    def hear(self, arrivals: Sequence[Arrival]) -> None:
        """Store what came, in the order of its coming."""
        for first in range(0, len(arrivals), 500):
            self.store.store(arrivals[first : first + 500])

    def roll_up(self) -> None:
        """Take all health into its blocks."""
        while HealthRollUp(self.database, offline_after_s=OFFLINE_AFTER_S).roll_up():
            pass

    def roll_out(self, name: str, release: str, *, starts: bool = True, **plan: Any) -> str:
        """Create a rollout under an id made of `name`, and start it."""
        wanted: dict[str, Any] = {
            "name": name,
            "release": release,
            "groups": [{"name": "canary", "percentage": 20, "soak_s": 3600}, {"percentage": 100}],
            "gates": {"metrics": []},
        }
        rollout = f"ro-{'-'.join(release.split('/'))}-{len(name)}"
        create_rollout(
            self.database, msgspec.convert(wanted | plan, RolloutPlan), rollout, caller=ANN, now=self.now
        )
        if starts:
            self.command(rollout, Verb.START)
        return rollout

    def command(self, rollout: str, verb: Verb, caller: Caller = ANN) -> None:
        """Say something to a rollout."""
        carry_out_verb(self.database, self.told, rollout, verb, caller=caller, now=self.now)

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass, let rollouts move on, and devices obey, until nothing more follows."""
        self.now += seconds
        while self.engine.advance_all() or self.obey():
            pass

    def obey(self) -> int:
        """Have every device that is not idle install what it shall run; how many did."""
        with self.database.read() as session:
            wanted = [row for row in session.scalars(select(Desired)) if row.device not in self.idle]
        fresh = [row for row in wanted if self._obeyed.get(row.device, 0) < row.counter]
        self.hear([self.say(row.device, installed(row)) for row in fresh])
        self._obeyed |= {row.device: row.counter for row in fresh}
        self.runs |= {row.device: row.release for row in fresh}
        return len(fresh)


def machine_of(name: str, *, boot: str = "boot-1", number: int = 1) -> Machine:
    """The device of a name, with the key that every process of these tests knows for it."""
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest()) >> 1
    return Machine(name=name, key=ec.derive_private_key(secret, ec.SECP256R1()), boot=boot, number=number)


def installed(row: Desired) -> InstallReport:
    """A device's word that it runs what it shall."""
    return InstallReport(
        execution=row.execution,
        release=row.release,
        counter=row.counter,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
        progress=1.0,
        active_release=row.release,
    )
