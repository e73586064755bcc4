"""Whose word approves a release: a person's, through a rollout that asks for it; devices hear it from the fleet alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from cryptography.hazmat.primitives.asymmetric import ec
from databases import Databases
from fastapi.testclient import TestClient
from fleet_world import operator_token, word_of
from rollout_world import PLAN, RolloutWorld
from sqlalchemy import select, update
from waiting import wait_until

from fleet.app import build_app
from fleet.auth.device_tokens import AUDIENCE
from fleet.migrations.upgrade import _config, open_storage
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.states import RolloutState, Verb
from fleet.settings import Settings
from fleet.storage.access_tables import AuditEntry
from fleet.storage.device_tables import Device
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutTransition
from protocol.identity import issue_token, public_key_pem
from protocol.messages.payloads import DesiredState
from service.roles import Caller, Role

ALL_AT_ONCE = {"groups": [{"percentage": 100}], "success": {}, "limits": []}


class Site:
    """The real application over a small fleet, with a person, a second one, an aggregator, and a device that can ask."""

    def __init__(self, api: TestClient, world: RolloutWorld) -> None:
        self.api, self.world = api, world
        self.device, self._key = world.devices[0], ec.generate_private_key(ec.SECP256R1())
        roles = {"ann": Role.OPERATOR, "root": Role.ADMIN, "agg": Role.PUBLISHER, "agg-2": Role.PUBLISHER}
        with world.database.write() as session:
            session.get_one(Device, self.device).public_key = public_key_pem(self._key.public_key()).decode()
            self._tokens = {
                name: operator_token(session, name, role, world.now) for name, role in roles.items()
            }

    def bearer(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[who]}"}

    def ask(self, who: str, path: str, body: object = None) -> dict[str, object]:
        answer = self.api.post(path, json=body, headers=self.bearer(who))
        assert answer.is_success, answer.text
        return dict(answer.json())

    def roll_out(self, creator: str, approver: str | None, release: str = "pump/2") -> str:
        plan = PLAN | ALL_AT_ONCE | {"release": release, "require_approval": approver is not None}
        path = f"/v1/rollouts/{self.ask(creator, '/v1/rollouts', plan)['id']}"
        if approver is not None:
            self.ask(approver, f"{path}:approve")
        self.ask(approver or creator, f"{path}:start")
        return path

    def confirmed(self, etag: str = "") -> tuple[DesiredState | None, str]:
        """What the fleet says to the device over HTTPS; None: unchanged."""
        token = issue_token(self._key, self.device, AUDIENCE, time.time())
        headers = {"Authorization": f"Bearer {token}"} | ({"If-None-Match": etag} if etag else {})
        answer = self.api.get("/v1/device/desired", headers=headers)
        state = word_of(answer) if answer.status_code == 200 else None
        return state, answer.headers["ETag"]

    @property
    def is_approved(self) -> bool:
        state, _ = self.confirmed()
        assert state is not None
        return state.is_approved


@pytest.fixture
def site(world: RolloutWorld, tmp_path: Path) -> Iterator[Site]:
    settings = Settings(data_dir=tmp_path, tenant="demo")
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        yield Site(client, world)


@pytest.mark.parametrize(
    ("creator", "approver"), [("agg", "ann"), ("ann", "root"), ("agg", None), ("ann", None)]
)
def test_only_an_approval_by_a_person_approves_a_release(
    site: Site, creator: str, approver: str | None
) -> None:
    site.roll_out(creator, approver)
    assert site.is_approved is (approver is not None)
    with site.world.database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.action == "release_approved")).all()
    assert [(line.subject, line.actor.partition(":")[2]) for line in lines] == (
        [("pump/2", approver)] if approver else []
    )
    shown = site.api.get("/v1/releases/pump/2", headers=site.bearer("ann")).json()["approved_by"]
    assert (shown or "").partition(":")[2] == (approver or "")


@pytest.mark.parametrize("creator", ["agg", "ann"])
def test_a_programs_token_approves_nothing_also_of_another_programs(site: Site, creator: str) -> None:
    plan = PLAN | ALL_AT_ONCE | {"require_approval": True}
    path = f"/v1/rollouts/{site.ask(creator, '/v1/rollouts', plan)['id']}"
    refused = site.api.post(f"{path}:approve", headers=site.bearer("agg-2"))
    assert refused.status_code == 403
    assert "a person must" in refused.json()["detail"]
    assert site.api.post(f"{path}:start", headers=site.bearer("agg-2")).status_code == 403


def test_an_approval_that_comes_later_is_a_new_word_to_a_device_that_has_the_release(site: Site) -> None:
    site.roll_out("agg", None)
    before, etag = site.confirmed()
    assert before is not None
    assert site.confirmed(etag)[0] is None
    site.world.install([name for name in site.world.devices if name != site.world.devices[-1]])
    plan = PLAN | ALL_AT_ONCE | {"require_approval": True}
    later = site.ask("agg", "/v1/rollouts", plan)["id"]
    site.ask("ann", f"/v1/rollouts/{later}:approve")
    after, _ = site.confirmed(etag)
    assert after is not None
    assert (before.is_approved, after.is_approved) == (False, True)
    assert before.asks_the_same(after), "it is no other wish"


def test_a_release_that_was_taken_back_is_approved_no_more_and_its_predecessor_still_is(site: Site) -> None:
    first = site.roll_out("agg", "ann", "pump/2")
    site.world.install(site.world.devices)

    def is_completed() -> bool:
        site.world.tick(1.0)  # the application has an engine, too: one of the two comes first
        state = site.api.get(first, headers=site.bearer("ann")).json()["state"]
        return bool(state == "COMPLETED")

    wait_until(is_completed, "the rollout to complete")
    second = site.roll_out("agg", "ann", "pump/3")
    assert site.is_approved
    site.ask("ann", f"{second}:rollback", {"confirm": second.rpartition("/")[2]})
    back, _ = site.confirmed()
    assert back is not None
    assert (back.release, back.is_approved) == ("pump/2", True)
    site.ask(
        "ann", "/v1/releases/pump/2:withdraw", {"reason": "alarms on every cold start", "confirm": "pump/2"}
    )
    assert not site.is_approved


@pytest.mark.parametrize(
    ("actor", "approved_by"), [("operator:bob", "operator:bob"), ("publisher:agg", None)]
)
def test_what_people_approved_before_is_known_after_the_upgrade(
    databases: Databases, actor: str, approved_by: str | None
) -> None:
    with databases.fresh() as url:
        world = RolloutWorld(url, devices=2)
        world.say(world.create(require_approval=True), Verb.APPROVE, actor="operator:bob")
        with world.database.write() as session:
            # fleets of before let a program's token approve, too
            was_waiting = RolloutTransition.was == RolloutState.WAITING_FOR_APPROVAL
            session.execute(update(RolloutTransition).where(was_waiting).values(actor=actor))
            command.downgrade(_config(session), "0007")
        world.close()
        database = open_storage(url)
        with database.read() as session:
            release = session.get_one(Release, ("pump", 2))
            assert (release.approved_by, release.approved_at) == (
                approved_by,
                None if approved_by is None else world.now,
            )
            assert session.get_one(Release, ("pump", 3)).approved_by is None
        database.close()


def test_of_approvals_at_the_same_moment_one_is_heard(world: RolloutWorld) -> None:
    rollout = world.create(require_approval=True)
    people = [Caller(name=name, role=Role.OPERATOR, person=name) for name in ("bob", "eve", "ann")]
    together, outcomes = threading.Barrier(len(people)), []

    def approve(person: Caller) -> None:
        together.wait()
        try:
            carry_out_verb(
                world.database, world.publisher, rollout, Verb.APPROVE, caller=person, now=world.now
            )
        except Exception as error:  # noqa: BLE001 - whatever it was is what the test looks at
            outcomes.append(type(error).__name__)
        else:
            outcomes.append(person.name)

    threads = [threading.Thread(target=approve, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in outcomes if one in {"bob", "eve"}]) == 1, outcomes
    assert world.view(rollout).state == "READY"
    assert [line.actor for line in world.view(rollout).timeline if line.state == "READY"] in (
        ["operator:bob"],
        ["operator:eve"],
    )
