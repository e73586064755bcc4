"""People's verdicts on anomalies: who may give them, that they last, and what they say about a release."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import TENANT, Machine, anomaly, enrol_directly
from sqlalchemy import select

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.storage.access_tables import AuditEntry
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import VerdictRecord
from fleet.verdicts import AT_ONCE
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

TRUE, FALSE = {"verdict": "true_alarm"}, {"verdict": "false_alarm"}


def anomalies(fleet: Fleet, machine: Machine, count: int, *, release: str = "motor/1") -> list[int]:
    """Ids of as many fresh anomalies of a machine in a family of its own, oldest first."""
    with fleet.database.read() as session:
        is_new = session.get(Device, machine.name) is None
    if is_new:
        enrol_directly(fleet.database, machine)
        with fleet.database.write() as session:
            row = session.get(Device, machine.name)
            assert row is not None
            row.family = machine.name
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([machine.arrival(anomaly(release=release)) for _ in range(count)])
    items = fleet.call("GET", f"/v1/anomalies?device={machine.name}&limit={count}").json()["items"]
    return [item["id"] for item in reversed(items)]


def judge(fleet: Fleet, ids: Sequence[int], verdicts: Sequence[bool]) -> None:
    for anomaly_id, is_true in zip(ids, verdicts, strict=True):
        answer = fleet.call(
            "PUT", f"/v1/anomalies/{anomaly_id}/verdict", Role.OPERATOR, json=TRUE if is_true else FALSE
        )
        assert answer.status_code == 200, answer.text


def drift_lines(fleet: Fleet, family: str) -> list[AuditEntry]:
    with fleet.database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.action == "precision_drifted")).all()
    return [line for line in lines if line.detail["family"] == family]


def test_a_verdict_is_kept_with_author_and_time_and_shown(fleet: Fleet, machine: Machine) -> None:
    (one,) = anomalies(fleet, machine, 1)
    is_problem(fleet.call("GET", f"/v1/anomalies/{one}/verdict"), 404, "no verdict")
    body = FALSE | {"note": "a forklift"}
    given = fleet.call("PUT", f"/v1/anomalies/{one}/verdict", Role.OPERATOR, json=body).json()
    assert (given["verdict"], given["author"], given["note"]) == ("false_alarm", "a-operator", "a forklift")
    assert given["given_at"] == pytest.approx(fleet.now(), abs=60)
    assert fleet.call("GET", f"/v1/anomalies/{one}/verdict").json() == given
    # as another process sees it
    reopened = open_storage(fleet.database.engine.url.render_as_string(hide_password=False))
    with reopened.read() as session:
        kept = session.get(VerdictRecord, one)
        assert kept is not None
        assert kept.author == "a-operator"
    reopened.close()


def test_two_first_verdicts_at_the_same_time_are_both_heard(fleet: Fleet, machine: Machine) -> None:
    ids = anomalies(fleet, machine, 10)
    together = threading.Barrier(4)

    def give(author: Role) -> list[int]:
        statuses = []
        for one in ids:
            together.wait()
            statuses.append(fleet.call("PUT", f"/v1/anomalies/{one}/verdict", author, json=TRUE).status_code)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        answered = list(pool.map(give, [Role.OPERATOR, Role.ADMIN] * 2))
    assert answered == [[200] * len(ids)] * 4


def test_a_verdict_can_be_corrected_and_keeps_its_place(fleet: Fleet, machine: Machine) -> None:
    (one,) = anomalies(fleet, machine, 1)
    judge(fleet, [one], [True])
    first = fleet.call("GET", f"/v1/anomalies/{one}/verdict").json()
    judge(fleet, [one, one], [False, False])
    second = fleet.call("GET", f"/v1/anomalies/{one}/verdict").json()
    assert (first["verdict"], second["verdict"]) == ("true_alarm", "false_alarm")
    assert second["first_given_at"] == first["first_given_at"]
    with fleet.database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.subject == f"anomaly/{one}")).all()
    assert [line.detail["verdict"] for line in lines] == ["true_alarm", "false_alarm"]  # not the repetition


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "verdict"),
        ({"verdict": "maybe"}, "true_alarm"),
        (TRUE | {"note": "x" * 501}, "500"),
        (TRUE | {"author": "me"}, "author"),
    ],
)
def test_a_verdict_that_means_nothing_is_refused(
    fleet: Fleet, machine: Machine, body: dict[str, str], word: str
) -> None:
    (one,) = anomalies(fleet, machine, 1)
    is_problem(fleet.call("PUT", f"/v1/anomalies/{one}/verdict", Role.OPERATOR, json=body), 422, word)


def test_who_may_only_look_may_not_judge_and_what_is_not_there_cannot_be_judged(
    fleet: Fleet, machine: Machine
) -> None:
    (one,) = anomalies(fleet, machine, 1)
    for role in (Role.VIEWER, Role.PUBLISHER):
        is_problem(fleet.call("PUT", f"/v1/anomalies/{one}/verdict", role, json=TRUE), 403, "operator")
    is_problem(
        fleet.call("PUT", "/v1/anomalies/999999999/verdict", Role.OPERATOR, json=TRUE),
        404,
        "no anomaly 999999999",
    )


def test_a_release_whose_alarms_become_false_has_drifted_and_it_is_told_once(
    fleet: Fleet, machine: Machine
) -> None:
    ids = anomalies(fleet, machine, 80)
    judge(fleet, ids[:40], [n % 8 != 0 for n in range(40)])
    summary = fleet.call("GET", f"/v1/precision/summary?family={machine.name}").json()
    assert summary["drifted"] is False
    assert summary["releases"][0]["precision"] == pytest.approx(35 / 40)
    judge(fleet, ids[40:], [n % 8 == 0 for n in range(40)])
    summary = fleet.call("GET", f"/v1/precision/summary?family={machine.name}").json()
    (release,) = summary["releases"]
    assert summary["drifted"] is True
    assert summary["drifted_since"] == release["drifted_since"]
    assert (release["judged"], release["true_alarms"], release["false_alarms"]) == (80, 40, 40)
    (line,) = drift_lines(fleet, machine.name)
    assert line.detail["judged"] > 40
    drift = fleet.call("GET", f"/v1/drift/summary?family={machine.name}").json()
    assert drift["precision_drifted_since"] == summary["drifted_since"]


def test_a_new_release_begins_a_stream_of_its_own(fleet: Fleet, machine: Machine) -> None:
    judge(fleet, anomalies(fleet, machine, 70), [n < 35 for n in range(70)])
    judge(fleet, anomalies(fleet, machine, 3, release="motor/2"), [True, True, False])
    summary = fleet.call("GET", f"/v1/precision/summary?family={machine.name}").json()
    assert [r["release"] for r in summary["releases"]] == ["motor/2", "motor/1"]
    assert [r["drifted_since"] is not None for r in summary["releases"]] == [False, True]
    assert summary["drifted"] is False


def test_a_family_without_verdicts_has_nothing_to_say(fleet: Fleet, machine: Machine) -> None:
    anomalies(fleet, machine, 1)
    summary = fleet.call("GET", f"/v1/precision/summary?family={machine.name}").json()
    assert (summary["drifted"], summary["drifted_since"], summary["releases"]) == (False, None, [])


def test_a_family_that_is_none_is_not_found_and_the_nearest_is_named(fleet: Fleet, machine: Machine) -> None:
    anomalies(fleet, machine, 1)
    refused = fleet.call("GET", f"/v1/precision/summary?family={machine.name}x")
    assert refused.status_code == 404
    assert f"did you mean '{machine.name}'?" in refused.json()["detail"]


def test_many_are_judged_at_once_and_taken_back_with_a_line_of_the_audit_log_each(
    fleet: Fleet, machine: Machine
) -> None:
    ids = anomalies(fleet, machine, 3)
    judged = {"anomalies": [*ids, ids[0], 2**60], "verdict": "true_alarm", "note": "the crane"}
    is_problem(fleet.call("POST", "/v1/anomalies:judge", Role.VIEWER, json=judged), 403)
    answer = fleet.call("POST", "/v1/anomalies:judge", Role.OPERATOR, json=judged)
    assert answer.json() == {"verdict": "true_alarm", "anomalies": ids, "left_out": [2**60]}
    changed = fleet.call(
        "POST", "/v1/anomalies:judge", Role.OPERATOR, json={"anomalies": ids[:1], "verdict": "false_alarm"}
    )
    assert changed.json()["anomalies"] == ids[:1]
    said = [fleet.call("GET", f"/v1/anomalies/{one}/verdict").json() for one in ids]
    assert [one["verdict"] for one in said] == ["false_alarm", "true_alarm", "true_alarm"]
    assert {one["note"] for one in said} == {"the crane"}, "who says no other note leaves the old one"

    assert fleet.call("DELETE", f"/v1/anomalies/{ids[0]}/verdict", Role.OPERATOR).status_code == 204
    is_problem(fleet.call("DELETE", f"/v1/anomalies/{ids[0]}/verdict", Role.OPERATOR), 404, "no verdict")
    back = fleet.call(
        "POST", "/v1/anomalies:judge", Role.OPERATOR, json={"anomalies": ids, "verdict": None}
    ).json()
    assert back == {"verdict": None, "anomalies": ids[1:], "left_out": ids[:1]}
    assert fleet.call("GET", f"/v1/precision/summary?family={machine.name}").json()["releases"] == []
    assert fleet.actions(f"anomaly/{ids[0]}") == ["verdict_given", "verdict_given", "verdict_taken_back"]
    with fleet.database.read() as session:
        waits = session.scalars(select(Anomaly.is_judged).where(Anomaly.id.in_(ids))).all()
        (line, *_) = session.scalars(
            select(AuditEntry).where(AuditEntry.subject == f"anomaly/{ids[1]}").order_by(AuditEntry.id.desc())
        )
    assert waits == [False] * 3
    assert (line.detail["verdict"], line.detail["note"]) == ("true_alarm", "the crane"), (
        "what was said is kept"
    )


def test_as_many_as_a_transaction_holds_are_judged_by_one_call_and_no_more(fleet: Fleet) -> None:
    asked = {"anomalies": list(range(1, AT_ONCE + 2)), "verdict": None}
    assert fleet.call("POST", "/v1/anomalies:judge", Role.OPERATOR, json=asked).status_code == 422
