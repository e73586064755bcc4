"""What a device ever sent can be removed: from every table, also one that is made tomorrow, and it does not come back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from fleet_api_world import Fleet, fleet, machine
from fleet_world import NOW, TENANT, Machine, anomaly, closed, enrol_directly, health, of_a_newer_agent
from sqlalchemy.orm import Session

from fleet import audit
from fleet.api.erasures import Erasure
from fleet.erasure import ERASED, erase_device
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.schema import METADATA
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import CommandStatus, DriftState, InstallStatus, InstallStep
from protocol.messages.payloads import Birth, DriftReport, InstallReport, Payload
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

MARK: Final = "SENT-BY-IT"
NUMBER: Final = 424_242.25
ID, NEIGHBOUR = "press-1", "press-10"

FLEETS_OWN: Final[dict[str, frozenset[str]]] = {
    # the device's own row: what it enrolled with
    "devices": frozenset(
        {"id", "fingerprint", "public_key", "state", "enrolled_at", "enrolled_again_at", "revoked_at"}
        | {"hardware", "family", "site", "labels", "claim"}
        | {"certificate_serial", "certificate_issuer", "certificate_ends_at"}
    ),
    # the fleet's word to it
    "desired_states": frozenset(
        {"execution", "release", "counter", "bundle_path", "bundle_sha256", "bundle_bytes", "set_at"}
    ),
    "desired_counters": frozenset({"counter"}),
    "device_commands": frozenset({"counter", "settings", "settings_counter", "settings_by", "settings_at"}),
    "commands": frozenset(
        {"number", "action", "arguments", "status", "is_device_word", "asked_by", "asked_at", "expires_at"}
        | {"changed_at", "request_key"}
    ),
    # what it was told in rollouts, and how that ended
    "rollout_executions": frozenset(
        {"rollout", "group_number", "state", "since", "attempt", "given_at", "previous", "returns"}
        | {"returned_at", "restored_at", "allowed", "held_until", "failed_at", "superseded_by"}
        | {"is_unheard", "is_awaited"}
    ),
    "rollout_timeline": frozenset(
        {"id", "rollout", "at", "subject", "group_number", "was", "state", "actor"}
    ),
    # that it changed, the last time by its erasure
    "device_changes": frozenset({"id", "at"}),
    # which numbers of its events have come, so that nothing comes twice
    "event_ranges": frozenset({"boot_id", "first", "last"}),
    "boots": frozenset(
        {"boot_id", "number", "era", "counted", "turn", "first_received", "last_received", "will_received"}
        | {"range_count"}
    ),
}
"""Columns of a device's rows that do not hold what it sent. Everything else must be gone, in tables of today and of tomorrow."""


def value_of(column: sa.Column[Any]) -> object:
    kind = column.type
    if isinstance(kind, sa.JSON):
        return {"x": [MARK]}
    if isinstance(kind, sa.LargeBinary):
        return MARK.encode()
    if isinstance(kind, sa.Boolean):
        return True
    if isinstance(kind, sa.Integer):
        return int(NUMBER)
    if isinstance(kind, sa.Float):
        return NUMBER
    return MARK[: getattr(kind, "length", None) or len(MARK)]


def own_value(column: sa.Column[Any], device: str, number: int) -> object:
    match column.type:
        case sa.String():
            return f"own-{device}"
        case sa.JSON():
            return {}
        case sa.Boolean():
            return False
        case _:
            return number


def rows_of(table: sa.Table, device: str, number: int) -> dict[str, object]:
    """One row of the device with a mark in every column that is not the fleet's own."""
    own, row = FLEETS_OWN.get(table.name, frozenset()), dict[str, object]()
    for column in table.columns:
        referred = next(iter(column.foreign_keys), None)
        is_key = referred is not None and referred.column.table.name == "devices"
        if column.name == "device" or is_key or (table.name == "devices" and column.name == "id"):
            row[column.name] = device
        elif referred is not None:
            row[column.name] = "ro-1" if referred.column.table.name == "rollouts" else number
        elif column.primary_key and isinstance(column.type, sa.Integer):
            row[column.name] = number
        elif column.name in own:
            row[column.name] = own_value(column, device, number)
        else:
            row[column.name] = value_of(column)
    if table.name == "devices":
        row["state"] = "enrolled"
    if table.name == "commands":
        row["status"] = "WAITING"
    return row


def fill(session: Session) -> None:
    """Two devices with a row in every table that can hold one, a rollout, and sentences of the fleet that name them."""
    for table in METADATA.sorted_tables:
        if table.name == "rollouts":
            row = {column.name: own_value(column, "person", 1) for column in table.columns}
            session.execute(table.insert().values(row | {"id": "ro-1"}))
        if table.name == "alert_groups":  # what a device's alerts hang on
            for number in (1, 2):
                row = {column.name: own_value(column, "storm", number) for column in table.columns}
                session.execute(table.insert().values(row | {"name": f"storm-{number}"}))
        holds = table.name in {"devices", "verdicts", "of_tomorrow"} or "device" in table.c
        holds = holds and table.name != "device_changes"  # the database's own triggers write it
        for number, device in enumerate((ID, NEIGHBOUR), start=1):
            if holds:
                session.execute(table.insert().values(rows_of(table, device, number)))


def note(session: Session, device: str) -> None:
    """Lines of the audit log that the device caused, and one in which a person speaks of it."""
    audit.record(
        session, at=NOW, actor=f"device:{device}", action="message_refused", subject="strangers", message=MARK
    )
    audit.record(session, at=NOW, actor="fleet", action="identity_conflict", subject=device, message=MARK)
    audit.record(
        session, at=NOW, actor="operator:ann", action="command_given", subject=device, arguments="hers"
    )


def everything(session: Session) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: [dict(row) for row in session.execute(table.select()).mappings()]
        for table in METADATA.sorted_tables
    }


def marks_of(found: dict[str, list[dict[str, Any]]], device: str) -> list[tuple[str, str]]:
    """(table, column) of every mark in a row of the device, and in rows that are nobody's."""
    marks = []
    for table, rows in found.items():
        for row in rows:
            owner = row.get("device", row.get("machine", row.get("id") if table == "devices" else device))
            if table == "audit_log":
                owner = ID
            if table == "verdicts":
                owner = ID if row["anomaly"] == 1 else NEIGHBOUR
            for name, value in row.items():
                text = value.decode() if isinstance(value, bytes) else json.dumps(value, default=str)
                is_mark = MARK in text or str(value) in {str(NUMBER), str(int(NUMBER))}
                if owner == device and is_mark:
                    marks.append((table, name))
    return marks


@pytest.fixture
def tomorrow(database: Database) -> Iterator[sa.Table]:
    """A table that nobody told the erasure of; in no other test's schema."""
    table = sa.Table(
        "of_tomorrow",
        METADATA,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("machine", sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("words", sa.String(64)),
    )
    table.create(database.engine)
    yield table
    METADATA.remove(table)


@pytest.mark.parametrize("state", [DeviceState.ENROLLED, DeviceState.REVOKED])
def test_no_row_of_any_table_holds_anything_that_the_device_sent(
    database: Database, tomorrow: sa.Table, state: DeviceState
) -> None:
    with database.write() as session:
        fill(session)
        note(session, ID)
        session.get_one(Device, ID).state = state
    with database.read() as session:
        before = everything(session)
    assert len({table for table, _ in marks_of(before, ID)}) >= 14, "or the test fills nothing"
    neighbours = marks_of(before, NEIGHBOUR)
    with database.write() as session:
        rows = erase_device(session, ID, actor="admin:root", now=NOW)
    assert rows[tomorrow.name] == rows["anomalies"] == rows["verdicts"] == 1
    with database.read() as session:
        after = everything(session)
    assert marks_of(after, ID) == []
    assert marks_of(after, NEIGHBOUR) == neighbours
    (line,) = [line for line in after["audit_log"] if line["action"] == "device_erased"]
    assert (line["actor"], line["subject"], line["at"], line["detail"]) == (
        "admin:root",
        ID,
        NOW,
        {"rows": rows},
    )
    assert [line["detail"] for line in after["audit_log"] if line["actor"] == "operator:ann"] == [
        {"arguments": "hers"}
    ]
    assert len(after["audit_log"]) == 4
    kept = {table for table, found in after.items() if any(row.get("device") == ID for row in found)}
    of_rollouts = {"rollout_executions", "rollout_timeline", "device_changes"}
    assert (
        kept == of_rollouts
        if state is DeviceState.REVOKED
        else kept >= of_rollouts | {"desired_states", "boots"}
    )


def test_sentences_that_tell_a_figure_of_the_device_are_emptied_and_those_of_a_neighbour_stay(
    database: Database,
) -> None:
    with database.write() as session:
        fill(session)
        told = "anomaly_rate <= 0.2 fails on {}: 0.83 against 0.2"
        groups = METADATA.tables["rollout_groups"]
        for number, device in enumerate((ID, NEIGHBOUR)):
            session.execute(
                groups.insert().values(
                    rollout="ro-1",
                    number=number,
                    name="g",
                    soak_s=0,
                    state="FAILED",
                    since=0,
                    reason=told.format(device),
                )
            )
        looks = METADATA.tables["rollout_looks"]
        unusual = "anomaly rate: {} alone is unusual (1 of 731 device-hours)"
        for number, device in enumerate((ID, NEIGHBOUR)):
            answer = {
                "reason": unusual.format(device),
                "answers": [{"reason": unusual.format(device), "p": 0.1}],
            }
            row = {"rollout": "ro-1", "group_number": 0, "number": number, "at": 0, "answer": answer}
            session.execute(looks.insert().values(row))
        erase_device(session, ID, actor="admin:root", now=NOW)
        reasons = session.scalars(sa.select(groups.c.reason).order_by(groups.c.number)).all()
        answers = session.scalars(sa.select(looks.c.answer).order_by(looks.c.number)).all()
    assert reasons == [ERASED, told.format(NEIGHBOUR)]
    assert answers[0] == {"reason": ERASED, "answers": [{"reason": ERASED, "p": 0.1}]}
    assert answers[1]["reason"] == unusual.format(NEIGHBOUR)


def test_the_files_of_sqlite_hold_nothing_of_it_either(tmp_path: Path) -> None:
    def is_on_disk() -> bool:
        return any(MARK.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    database = open_storage(f"sqlite:///{tmp_path}/fleet.sqlite")
    with database.write() as session:
        fill(session)
    assert is_on_disk()
    with database.write() as session:
        for device in (ID, NEIGHBOUR):
            erase_device(session, device, actor="admin:root", now=NOW)
    database.forget_deleted()
    assert not is_on_disk()
    database.close()


WINDOW = base64.b64encode(b"\x00\x00\x80?" * 4).decode()


def everything_it_can_say(machine: Machine) -> list[Any]:
    said: list[Payload] = [
        Birth(agent_version=MARK, hardware="rpi4", family="motor", labels={"owner": MARK}),
        anomaly(episode="e", window=WINDOW, window_shape=(2, 2), contributors=(MARK,)),
        closed("e"),
        DriftReport(
            release="motor/1", state=DriftState.DRIFTED, drift_score=2.0, observed_at_s=1.0, windows=3
        ),
        health(problems=(MARK,)),
        InstallReport(
            execution="x",
            release="motor/1",
            counter=1,
            step=InstallStep.COMMITTED,
            status=InstallStatus.FAILED,
            reason=MARK,
        ),  # fmt: skip - one line of fields
        CommandResult(number=1, action="diagnose", status=CommandStatus.DONE, report="YnVuZGxl"),
    ]
    return [*(machine.arrival(one) for one in said), of_a_newer_agent(machine.arrival(health()))]


def counts(database: Database, device: str) -> dict[str, int]:
    with database.read() as session:
        return {
            table.name: found
            for table in METADATA.sorted_tables
            if "device" in table.c
            and table.name != "device_changes"  # that it changed stays: its erasure is the last change
            and (
                found := session.scalar(
                    sa.select(sa.func.count()).select_from(table).where(table.c.device == device)
                )
            )
        }


def test_what_was_sent_before_does_not_come_back_and_what_comes_next_is_stored(
    fleet: Fleet, machine: Machine
) -> None:
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    said = everything_it_can_say(machine)
    store.store(said)
    number = fleet.call("GET", f"/v1/anomalies?device={machine.name}").json()["items"][0]["id"]
    fleet.call("PUT", f"/v1/anomalies/{number}/verdict", Role.OPERATOR, json={"verdict": "true_alarm"})
    assert set(counts(fleet.database, machine.name)) >= {
        "anomalies",
        "anomaly_ends",
        "drift_reports",
        "health_reports",
        "install_reports",
        "dead_letters",
        "boots",
    }  # fmt: skip - one line of names
    path = f"/v1/devices/{machine.name}"
    done = fleet.call("POST", f"{path}:erase", Role.ADMIN, json={"confirm": machine.name})
    erased = Erasure(**done.json())
    assert (erased.state, erased.rows["anomalies"], erased.rows["verdicts"]) == ("enrolled", 1, 1)
    view = fleet.call("GET", path).json()
    assert (view["reported_labels"], view["last_health"], view["last_seen"], view["agent_version"]) == (
        {},
        None,
        None,
        None,
    )
    # Our answers were lost, and a broker that kept the birth brings it again: all of it was erased.
    again = store.store(said)
    assert not again.stored
    assert again.duplicates == len(said) - 1
    left = counts(fleet.database, machine.name)
    # somebody is told of the refusal, should the notifier have looked meanwhile
    assert set(left) - {"alerts"} == {"boots", "event_ranges", "dead_letters"}, (
        "of what was refused no number is known"
    )
    assert store.store([machine.arrival(anomaly(episode="f"))]).stored
    assert [
        one["episode"] for one in fleet.call("GET", f"/v1/anomalies?device={machine.name}").json()["items"]
    ] == ["f"]
    later = fleet.call("POST", f"{path}:erase", Role.ADMIN, json={"confirm": machine.name}).json()
    assert later["rows"]["anomalies"] == 1


def test_a_revoked_device_that_was_erased_neither_speaks_nor_enrols_again(
    fleet: Fleet, machine: Machine
) -> None:
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    said = everything_it_can_say(machine)
    store.store(said)
    fleet.call("POST", f"/v1/devices/{machine.name}:revoke", Role.ADMIN, json={"confirm": machine.name})
    fleet.call("POST", f"/v1/devices/{machine.name}:erase", Role.ADMIN, json={"confirm": machine.name})
    assert counts(fleet.database, machine.name) == {}
    result = store.store([*said, machine.arrival(anomaly())])
    assert not result.stored
    assert counts(fleet.database, machine.name) == {}
    assert fleet.enrol(machine, fleet.claim()).status_code == 403
    other = Machine(name=f"{machine.name}-b", key=machine.key)
    assert fleet.enrol(other, fleet.claim()).status_code == 403
    token = machine.token(fleet.now())
    assert fleet.call("GET", "/v1/device/desired", token).status_code == 403
