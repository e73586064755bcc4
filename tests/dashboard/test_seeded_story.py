"""The fleet that the dashboard's tests look at has a past in which everything happened that a page can show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_site import copy_of, make_seeded, read_rollouts
from seeded_story import BLIND, DOUBLED, DRIFTED, LOUD, REVOKED, SILENT, WAITING
from sqlalchemy import func, select

from fleet.api.rollout_views import view_rollout
from fleet.rollouts.states import RolloutState
from fleet.storage.base import Database, open_database
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly
from fleet.verdicts import precision_of_family
from models.drift.labels import PrecisionSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "seeded"
    copy_of("seeded", make_seeded, shared_folder, folder)
    return folder


@pytest.fixture
def database(folder: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{folder}/data/fleet.sqlite")
    yield database
    database.close()


def test_rollouts_are_in_every_state_that_needs_another_look(folder: Path, database: Database) -> None:
    with database.read() as session:
        views = {name: view_rollout(session, one, time.time()) for name, one in read_rollouts(folder).items()}
    assert {name: view.state for name, view in views.items()} == {
        "completed": RolloutState.COMPLETED,
        "undone": RolloutState.ROLLED_BACK,
        "running": RolloutState.RUNNING,
        "paused": RolloutState.PAUSED,
        "lost": RolloutState.RUNNING,
        "waiting": RolloutState.WAITING_FOR_APPROVAL,
        "canceled": RolloutState.CANCELED,
        "ready": RolloutState.READY,
    }
    assert "latency" in views["undone"].groups[0].reason
    assert len(views["running"].groups[0].looks) >= 2


def test_devices_are_in_every_state_that_needs_a_person(database: Database) -> None:
    with database.read() as session:
        devices = {device.id: device for device in session.scalars(select(Device))}
        assert session.scalars(select(IdentityConflict.device)).all() == [DOUBLED]
        assert {letter.device for letter in session.scalars(select(DeadLetter))} == {LOUD}
        assert session.scalar(select(func.count()).select_from(Anomaly)) == 194
        (precision,) = precision_of_family(session, "pump", PrecisionSettings())
    assert devices[BLIND].agent_state == "blind"
    assert devices[DRIFTED].drifted
    assert devices[REVOKED].state == DeviceState.REVOKED
    assert devices[WAITING].state == DeviceState.WAITING
    assert [one.id for one in devices.values() if one.state == DeviceState.ENROLLED and not one.online] == [
        SILENT
    ]
    assert precision.drifted_since is not None
