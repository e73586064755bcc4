"""A small fleet in a real database, whose devices say what a test tells them to say; time is a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, select, update

from fleet.api.rollout_views import view_rollout
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.operations import create_rollout
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.base import Database, open_database
from fleet.storage.boot_tables import Boot
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.event_tables import HealthRecord, InstallRecord
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution
from fleet.views.rollouts import RolloutView
from protocol.identity import public_key_pem
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep, Kind
from service.roles import Caller, Role

FAMILY = "pump"
ANN = Caller(name="ann", role=Role.OPERATOR, person="ann")
DEVICE_KEY = ec.derive_private_key(1, ec.SECP256R1())
"""Of every device of the world: what they report is sealed by it."""
PLAN: dict[str, Any] = {
    "name": "pump v2",
    "release": "pump/2",
    "groups": [{"name": "canary", "percentage": 10, "soak_s": 10}, {"percentage": 50}, {"percentage": 100}],
    "success": {"threshold_pct": 100},
    "limits": [{"metric": "anomaly_rate", "op": "<=", "value": 0.3}],
    "gates": {"metrics": []},
}


class RecordingPublisher:
    """A DesiredPublisher that remembers whom it was told to announce."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.commanded: list[str] = []

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        (self.announced if kind is Kind.DESIRED else self.commanded).extend(sorted(devices))


class RolloutWorld:
    """Twelve devices on ``pump/1``; ``pump/1`` to ``pump/3`` are published."""

    def __init__(self, database_url: str, devices: int = 12, *, fresh: bool = True) -> None:
        self.now = 1000.0
        self.database: Database = open_database(database_url)
        self.publisher = RecordingPublisher()
        self.engine = RolloutEngine(self.database, self.publisher, now=lambda: self.now)
        self.devices = [f"d{number:02}" for number in range(devices)]
        self._sequence = 0
        self._made = 0
        if fresh:
            self._publish_and_enrol()

    def _publish_and_enrol(self) -> None:
        with self.database.write() as session:
            for version in (1, 2, 3):
                session.add(
                    Release(
                        family=FAMILY,
                        version=version,
                        sha256=f"{version:064x}",
                        size_bytes=100 + version,
                        signed_by="test",
                        manifest={"provenance": {}},
                        published_by="test",
                        published_at=self.now,
                        approved_at=None,
                        approved_by=None,
                        withdrawn_at=None,
                        withdrawn_reason=None,
                        listed_at=self.now,
                    )
                )
            for name in self.devices:
                session.add(make_device(name, self.now))
                session.add_all(make_boot(name, number, self.now) for number in (0, 1, 2))

    def close(self) -> None:
        self.database.close()

    def create(self, **changes: Any) -> str:
        self._made += 1
        rollout_id = f"ro-{self._made}"
        plan = msgspec.convert(PLAN | changes, RolloutPlan)
        create_rollout(self.database, plan, rollout_id, caller=ANN, now=self.now)
        return rollout_id

    def say(self, rollout_id: str, verb: Verb, actor: str = "operator:ann") -> None:
        role, _, name = actor.partition(":")
        caller = Caller(name=name, role=Role(role), person=name)
        carry_out_verb(self.database, self.publisher, rollout_id, verb, caller=caller, now=self.now)

    def started(self, **changes: Any) -> str:
        rollout_id = self.create(**changes)
        if self.view(rollout_id).state is RolloutState.WAITING_FOR_APPROVAL:
            self.say(rollout_id, Verb.APPROVE, actor="operator:bob")
        self.say(rollout_id, Verb.START)
        return rollout_id

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.engine.advance_all()

    def view(self, rollout_id: str) -> RolloutView:
        with self.database.read() as session:
            return view_rollout(session, rollout_id, self.now)

    def members(self, rollout_id: str, group: int) -> list[str]:
        """The devices of a group, by name."""
        with self.database.read() as session:
            found = select(RolloutExecution.device).where(
                RolloutExecution.rollout == rollout_id, RolloutExecution.group == group
            )
            return sorted(session.scalars(found))

    def desired(self, device: str) -> Desired | None:
        with self.database.read() as session:
            return session.get(Desired, device)

    def release(self, version: int) -> Release:
        with self.database.read() as session:
            found = session.get(Release, (FAMILY, version))
        assert found is not None
        return found

    def report(
        self,
        device: str,
        status: InstallStatus,
        *,
        execution: str | None = None,
        reason: str = "",
        step: InstallStep = InstallStep.COMMITTED,
        sequence: int | None = None,
        boot_id: str = "boot-1",
        shadow: dict[str, Any] | None = None,
    ) -> None:
        """The device speaks on its present desired state, or on `execution`; with a `sequence` it is late."""
        desired = self.desired(device)
        with self.database.write() as session:
            session.add(
                InstallRecord(
                    **(self._event(device, sequence) | {"boot_id": boot_id}),
                    execution=execution or (desired.execution if desired else "?"),
                    release=desired.release if desired else "pump/1",
                    counter=desired.counter if desired else 0,
                    step=step,
                    status=status,
                    progress=1.0,
                    reason=reason,
                    active_release=None,
                    shadow=shadow,
                )
            )
            if status is InstallStatus.SUCCEEDED and desired is not None and execution is None:
                row = session.get(Device, device)
                assert row is not None
                row.release = desired.release

    def health(
        self,
        device: str,
        *,
        rate: float = 0.0,
        times: int = 1,
        windows: int = 20,
        p99_us: float = 100.0,
        drift: float = 0.1,
        release: str | None = None,
        judged: int | None = None,
        state: AgentState | None = None,
        memory: int | None = None,
        sight: float | None = None,
    ) -> None:
        """Health of the last interval; with neither `judged` nor `state` it is that of an agent that tells of neither."""
        figures = {
            "anomaly_rate": rate,
            "drift_score": drift,
            "inference_p99_us": p99_us,
            "interval_windows": windows,
            "interval_judged": judged,
            "state": state,
            "memory_pss_bytes": memory,
            "sight": sight,
        }
        self.tell_health([(device, self.now)] * times, release=release, **figures)

    def tell_health(
        self, messages: Iterable[tuple[str, float]], *, release: str | None = None, **figures: Any
    ) -> None:
        """A message for each (device, when it comes), on what the device runs or on `release`."""
        given = figures | ({"release": release} if release else {})
        self.tell([{"device": device, "received_at": at} | given for device, at in messages])

    def tell(self, messages: Iterable[dict[str, Any]]) -> None:
        """Health messages; what one does not say of itself is that of a calm device on what it runs."""
        calm = {
            "anomaly_rate": 0.0,
            "drift_score": 0.1,
            "drifted": False,
            "inference_p99_us": 100.0,
            "interval_windows": 20,
            "interval_judged": 20,
            "interval_s": 30.0,
            "memory_pss_bytes": None,
            "sight": None,
            "state": None,
            "payload": {},
        }
        with self.database.write() as session:
            runs = dict(session.execute(select(Device.id, Device.release)).all())
            rows = [
                self._event(one["device"]) | calm | {"release": runs[one["device"]]} | one for one in messages
            ]
            if rows:
                session.execute(insert(HealthRecord), rows)
            for device, row in {row["device"]: row for row in rows}.items():
                heard = {"last_health_at": row["received_at"], "agent_state": row["state"]}
                session.execute(update(Device).where(Device.id == device).values(**heard))

    def install(self, devices: Iterable[str]) -> None:
        for device in devices:
            self.report(device, InstallStatus.SUCCEEDED)

    def _event(self, device: str, sequence: int | None = None) -> dict[str, Any]:
        self._sequence += 1
        return {
            "device": device,
            "boot_id": "boot-1",
            "sequence": self._sequence if sequence is None else sequence,
            "sent_at": self.now,
            "received_at": self.now,
        }


def make_boot(device: str, number: int, now: float) -> Boot:
    """A boot of a device that counts its starts: "boot-0" is the first."""
    return Boot(
        device=device,
        boot_id=f"boot-{number}",
        number=number + 1,
        era=0,
        counted=number + 1,
        turn=0,
        first_received=now,
        last_received=now,
    )


def make_device(name: str, now: float, release: str | None = "pump/1") -> Device:
    return Device(
        id=name,
        fingerprint=name.rjust(64, "0"),
        public_key=public_key_pem(DEVICE_KEY.public_key()).decode(),
        hardware="rpi4",
        family=FAMILY,
        labels={},
        state=DeviceState.ENROLLED,
        enrolled_at=now,
        revoked_at=None,
        agent_version=None,
        online=True,
        boot_id=None,
        last_seen=None,
        release=release,
        release_since=None,
        drifted=False,
        drift_since=None,
        drift_score=None,
        last_health=None,
        last_health_at=None,
    )
