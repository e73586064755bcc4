"""The pages of devices, of one device, of anomalies and of precision, as a browser without a script shows them."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pytest
from dashboard_world import Browser, text_of
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import TENANT, Machine, anomaly, closed, enrol_directly, health
from sqlalchemy import select, update

from fleet.ingest.store import EventStore
from fleet.lookups.inbox import STORM_DEVICES
from fleet.metrics import FleetMetrics
from fleet.saved_filters import MOST
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import VerdictRecord
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

HOSTILE = '<img src=x onerror="window.fedgeOwned=1">'


def raise_alarms(
    fleet: Fleet, machine: Machine, *said: Any, family: str | None = None, site: str = "hall-1"
) -> list[int]:
    """Enrol a machine in a family of its own, and have it say so now; the ids of its anomalies, oldest first."""
    with fleet.database.read() as session:
        is_new = session.get(Device, machine.name) is None
    if is_new:
        enrol_directly(fleet.database, machine)
        with fleet.database.write() as session:
            row = session.get_one(Device, machine.name)
            row.family, row.site = family or machine.name, site
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    store.store([machine.arrival(one, at=fleet.now() - 9) for one in said or (anomaly(),)])
    with fleet.database.read() as session:
        return list(
            session.scalars(select(Anomaly.id).where(Anomaly.device == machine.name).order_by(Anomaly.id))
        )


def ids_shown(answer: Any) -> list[int]:
    return [int(one) for one in re.findall(r'id="a-(\d+)"', answer.text)]


def verdicts(fleet: Fleet, anomalies: list[int]) -> list[str | None]:
    with fleet.database.read() as session:
        found = {row.anomaly: str(row.verdict) for row in session.scalars(select(VerdictRecord))}
    return [found.get(one) for one in anomalies]


def test_the_devices_of_a_query_are_shown_with_how_many_are_in_which_plight(
    fleet: Fleet, machine: Machine
) -> None:
    raise_alarms(
        fleet,
        machine,
        health(interval_judged=9, sight=0.25, problems=("a cable is loose",)),
        anomaly(episode="e1"),
    )
    browser = Browser(fleet)
    shown = browser.get(f"/devices?query=id=={machine.name}")
    words = text_of(shown)
    assert "1 device " in words
    assert "1 in alarm" in words
    assert "1 with problems" in words
    assert "a cable is loose" in words
    assert "25 %" in words
    assert f"/devices?query=%28id%3D%3D{machine.name}%29%3Bin_alarm%3D%3Dtrue" in shown.text, (
        "a count is a query, too"
    )
    assert browser.get(f"/devices?query=(id=={machine.name});in_alarm==true").text.count("data-row>") == 1
    raise_alarms(fleet, machine, closed("e1"))
    assert browser.get(f"/devices?query=(id=={machine.name});in_alarm==true").text.count("data-row>") == 0


def test_what_is_wrong_with_a_query_stands_beside_its_box_with_what_was_meant(fleet: Fleet) -> None:
    shown = Browser(fleet).get("/devices?query=sigt=lt=0.5 and site==hall-1")
    assert shown.status_code == 400
    assert "&#39;sigt&#39; is no" in shown.text
    assert "/devices?query=sight%3Dlt%3D0.5%20and%20site%3D%3Dhall-1" in shown.text
    assert 'aria-invalid="true"' in shown.text
    assert 'value="sigt=lt=0.5 and site==hall-1"' in shown.text, "what was asked is not lost"


def test_ten_thousand_devices_are_pages_of_fifty(fleet: Fleet) -> None:
    many = [Machine(name=f"crowd-{number:03}") for number in range(60)]
    enrol_directly(fleet.database, *many)
    browser = Browser(fleet)
    first = browser.get("/devices?query=id==crowd-*")
    assert first.text.count("data-row>") == 50
    assert len(first.content) < 100_000
    (rest,) = re.findall(r'href="([^"]+)" rel="next"', first.text)
    second = browser.get(rest.replace("&amp;", "&"))
    assert re.findall(r">(crowd-\d+)</a>", second.text) == [f"crowd-{number:03}" for number in range(50, 60)]


def test_a_spreadsheet_runs_nothing_that_a_device_calls_itself(fleet: Fleet, machine: Machine) -> None:
    raise_alarms(
        fleet,
        machine,
        health(interval_judged=9, problems=("+SUM(A1)",)),
        site='=HYPERLINK("http://evil","x")',
    )
    told = Browser(fleet).get(f"/devices.csv?query=id=={machine.name}")
    assert told.headers["content-type"].startswith("text/csv")
    assert "attachment" in told.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(told.text))
    assert row["id"] == machine.name
    assert row["site"] == '\'=HYPERLINK("http://evil","x")'
    assert row["problems"] == "'+SUM(A1)"
    assert (row["online"], row["drift_score"]) == ("true", "0.0")
    wrong = Browser(fleet).get("/devices.csv?query=a==b;;")
    assert wrong.status_code == 400
    assert "position" in text_of(wrong)


def test_a_csv_file_has_every_device_however_many_there_are(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.lookups.csv_rows.AT_ONCE", 7)
    enrol_directly(fleet.database, *(Machine(name=f"row-{number:03}") for number in range(30)))
    told = csv.DictReader(io.StringIO(Browser(fleet).get("/devices.csv?query=id==row-*").text))
    assert [row["id"] for row in told] == [f"row-{number:03}" for number in range(30)]


def test_a_query_is_kept_for_oneself_or_shared_by_an_operator(fleet: Fleet) -> None:
    viewer, operator, admin = (Browser(fleet, role) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN))
    viewer.follow(viewer.post("/devices/filters", name="mine", query="site==hall-9"))
    assert viewer.post("/devices/filters", name="ours", query="site==x", shared="yes").status_code == 403
    operator.follow(operator.post("/devices/filters", name=HOSTILE, query='site=="<b>"', shared="yes"))
    assert ">mine</a>" in viewer.get("/devices").text
    assert ">mine</a>" not in operator.get("/devices").text, "what somebody keeps for themselves is theirs"
    shown = viewer.get("/devices").text
    assert "&lt;img src=x" in shown
    assert "<img" not in shown
    (shared,) = re.findall(r"/devices/filters/(\d+)/forget", operator.get("/devices").text)
    assert viewer.post(f"/devices/filters/{shared}/forget").status_code == 404
    admin.follow(admin.post(f"/devices/filters/{shared}/forget"))
    assert fleet.actions(f"filter/{shared}") == ["filter_saved", "filter_forgotten"]
    assert "&lt;img" not in viewer.get("/devices").text
    assert viewer.post("/devices/filters", name="bad", query="a==b;;").status_code == 400
    for number in range(MOST - 1):
        assert viewer.post("/devices/filters", name=f"n{number}", query="a==b").status_code == 303
    assert viewer.post("/devices/filters", name="too many", query="a==b").status_code == 409
    assert viewer.post("/devices/filters", name="mine", query="a==c").status_code == 303, (
        "the one of that name is changed"
    )


def test_a_devices_page_shows_what_it_told_and_nothing_it_says_is_markup(
    fleet: Fleet, machine: Machine
) -> None:
    machine = Machine(name=f"{machine.name}-a")
    said = health(
        interval_windows=20, interval_judged=20, score_mean=0.4, score_max=2.5, threshold=1.0, interval_s=30.0,
        problems=(HOSTILE,), missing=(HOSTILE,), promised_per_1000=1.0, realised_alarms=90, realised_windows=1000,
        realised_low_per_1000=70.0, realised_high_per_1000=110.0,
    )  # fmt: skip
    ids = raise_alarms(fleet, machine, said, anomaly(episode="e", contributors=(HOSTILE,)), site=HOSTILE)
    shown = Browser(fleet).get(f"/devices/{machine.name}?span=1h")
    assert "<img" not in shown.text
    words = text_of(shown)
    assert "Score against its threshold 2.5 of 1" in words
    assert "False alarms exceeded" in words
    assert f"/anomalies/{ids[0]}" in shown.text
    assert 'class="span alarm"' in shown.text, "the alarm that lasts is shaded"
    assert len(shown.content) < 100_000
    assert Browser(fleet).get(f"/devices/{machine.name}?span=2h").status_code == 404
    assert Browser(fleet).get("/devices/nobody").status_code == 404
    raise_alarms(fleet, machine, health(interval_judged=9, realised_high_per_1000=0.9, promised_per_1000=1.0))
    assert "False alarms kept" in text_of(Browser(fleet).get(f"/devices/{machine.name}"))


def test_anomalies_are_judged_one_and_several_at_once_and_that_is_taken_back(
    fleet: Fleet, machine: Machine
) -> None:
    ids = raise_alarms(fleet, machine, anomaly(episode="a"), anomaly(episode="b"))
    browser, where = Browser(fleet, Role.OPERATOR), f"/anomalies?device={machine.name}"
    assert ids_shown(browser.get(where)) == ids, "the oldest first"
    answer = browser.post("/anomalies/judge", said=f"true_alarm|{ids[0]}|a-{ids[1]}", back=where)
    assert answer.headers["location"] == f"{where}#a-{ids[1]}", "and on with the next"
    shown = browser.follow(answer)
    assert "1 anomaly judged: true alarm" in text_of(shown)
    assert ids_shown(shown) == ids[1:]
    (at,) = re.findall(r'name="at" value="([\d.]+)"', shown.text)[:1]
    browser.post(
        "/anomalies/judge", said="false_alarm|chosen|", pick=[str(ids[1])], note="the crane", back=where
    )
    assert verdicts(fleet, ids) == ["true_alarm", "false_alarm"]
    assert "Nothing of these waits" in text_of(browser.get(where))
    browser.follow(browser.post("/anomalies/undo", at=at, back=where))
    assert verdicts(fleet, ids) == [None, "false_alarm"], "what was said then, and nothing else"
    assert fleet.actions(f"anomaly/{ids[0]}") == ["verdict_given", "verdict_taken_back"]
    assert ids_shown(browser.get(where)) == ids[:1]


def test_nobody_takes_back_what_somebody_else_has_said_since(fleet: Fleet, machine: Machine) -> None:
    (one,) = raise_alarms(fleet, machine)
    operator, admin = Browser(fleet, Role.OPERATOR), Browser(fleet, Role.ADMIN)
    shown = operator.follow(operator.post("/anomalies/judge", said=f"true_alarm|{one}|"))
    (at, *_) = re.findall(r'name="at" value="([\d.]+)"', shown.text)
    admin.post("/anomalies/judge", said=f"false_alarm|{one}|")
    assert "0 anomalies taken back" in text_of(operator.follow(operator.post("/anomalies/undo", at=at)))
    assert verdicts(fleet, [one]) == ["false_alarm"]
    viewer = Browser(fleet)
    assert viewer.post("/anomalies/judge", said=f"true_alarm|{one}|").status_code == 403
    assert viewer.post("/anomalies/undo", at=at).status_code == 403
    assert 'data-key="t"' not in viewer.get("/anomalies").text


@pytest.mark.parametrize(
    "back", ["//evil.example/", "https://evil.example/", "/anomalies\r\nx: y", "/devices", "/anomalies/../x"]
)
def test_a_verdict_leads_to_no_other_page(fleet: Fleet, machine: Machine, back: str) -> None:
    (one,) = raise_alarms(fleet, machine)
    answer = Browser(fleet, Role.OPERATOR).post("/anomalies/judge", said=f"true_alarm|{one}|", back=back)
    assert answer.headers["location"] == "/anomalies"


def test_a_storm_is_one_line_that_opens_and_is_judged_whole(fleet: Fleet, machine: Machine) -> None:
    family = machine.name
    storm = [Machine(name=f"{family}-{number}") for number in range(STORM_DEVICES)]
    ids = [one for other in storm for one in raise_alarms(fleet, other, family=family)]
    (other,) = raise_alarms(fleet, machine, family=f"{family}-x")
    browser = Browser(fleet, Role.OPERATOR)
    shown = browser.get(f"/anomalies?family={family}")
    assert ids_shown(shown) == ids[:1]
    assert f"Storm {len(ids)} alarms of {len(ids)} devices of {family}" in text_of(shown)
    (key,) = re.findall(r'name="pick" value="([^"]+)"', shown.text)
    opened = browser.get(f"/anomalies?scope={key}")
    assert ids_shown(opened) == ids
    (late,) = raise_alarms(fleet, Machine(name=f"{family}-late"), family=family)
    answer = browser.follow(browser.post("/anomalies/judge", said="false_alarm|chosen|", pick=[key]))
    assert f"{len(ids)} anomalies judged" in text_of(answer)
    assert set(verdicts(fleet, ids)) == {"false_alarm"}
    assert verdicts(fleet, [late, other]) == [None, None], "what came later is in no group that was looked at"
    assert browser.get("/anomalies?scope=1-2.site.x").status_code == 400


def test_one_device_again_and_again_is_one_line(fleet: Fleet, machine: Machine) -> None:
    ids = raise_alarms(fleet, machine, *(anomaly(episode=f"e{number}") for number in range(4)))
    browser = Browser(fleet, Role.OPERATOR)
    shown = browser.get(f"/anomalies?device={machine.name}")
    assert ids_shown(shown) == ids[:1]
    assert "again and again: 4 alarms" in text_of(shown)
    by_score = browser.get(f"/anomalies?device={machine.name}&order=score")
    assert sorted(ids_shown(by_score)) == ids, "by score each stands for itself"
    browser.post("/anomalies/judge", said=f"true_alarm|{ids[0]}-{ids[-1]}.device.{machine.name}|")
    assert set(verdicts(fleet, ids)) == {"true_alarm"}


def test_the_window_of_an_anomaly_is_drawn_and_a_withheld_one_says_so(fleet: Fleet, machine: Machine) -> None:
    samples = np.sin(np.arange(512, dtype="<f4") / 9).reshape(256, 2)
    ids = raise_alarms(fleet, machine, anomaly(), anomaly(), anomaly())
    with fleet.database.write() as session:
        drawn = {"window": samples.tobytes(), "window_shape": [256, 2], "contributors": ["ch2.rms", HOSTILE]}
        session.execute(update(Anomaly).where(Anomaly.id == ids[0]).values(**drawn))
        withheld = {"window": None, "window_shape": [], "window_withheld": True}
        session.execute(update(Anomaly).where(Anomaly.id == ids[1]).values(**withheld))
        lying = {"window": b"\x00" * 12, "window_shape": [10**6, 10**6]}
        session.execute(update(Anomaly).where(Anomaly.id == ids[2]).values(**lying))
    browser = Browser(fleet)
    one, two, three = (browser.get(f"/anomalies/{number}") for number in ids)
    assert "256 samples of 2 channels" in text_of(one)
    assert one.text.index("channel 2") < one.text.index("channel 1"), "what made the score stands first"
    assert one.text.count('data-name="channel') == 2
    assert "<img" not in one.text
    assert "lets no window leave it" in text_of(two)
    assert "without a window" in text_of(three)
    assert "window withheld" in text_of(browser.get(f"/anomalies?device={machine.name}&order=score"))
    assert browser.get("/anomalies/999999999").status_code == 404


def test_precision_says_per_release_what_people_said_and_how_sure_that_is(
    fleet: Fleet, machine: Machine
) -> None:
    ids = raise_alarms(fleet, machine, *(anomaly(release=f"motor/{1 + number % 2}") for number in range(10)))
    browser = Browser(fleet, Role.OPERATOR)
    for number, one in enumerate(ids[:8]):
        browser.post("/anomalies/judge", said=f"{'true' if number < 6 else 'false'}_alarm|{one}|")
    shown = browser.get(f"/precision?family={machine.name}")
    words = text_of(shown)
    assert f"{machine.name} 8 75 % 41 % to 93 %" in words
    assert "motor/1 3 1" in words
    assert "too few to say" in words
    assert "6 true alarms, 2 false alarms" in shown.text, "the chart says it in words, too"
    assert browser.get("/precision?family=nobody").status_code == 404
    is_problem(fleet.call("GET", "/v1/anomalies/999999999"), 404)


def test_a_program_keeps_queries_too_and_asks_for_what_waits(fleet: Fleet, machine: Machine) -> None:
    asked = {"name": machine.name, "query": "sight=lt=0.5", "is_shared": True}
    is_problem(fleet.call("PUT", "/v1/device-filters", Role.VIEWER, json=asked), 403)
    kept = fleet.call("PUT", "/v1/device-filters", Role.OPERATOR, json=asked).json()
    assert kept["owner"] == "a-operator"
    assert kept in fleet.call("GET", "/v1/device-filters").json()
    wrong = fleet.call("PUT", "/v1/device-filters", Role.OPERATOR, json=asked | {"query": "sigt=lt=1"})
    is_problem(wrong, 400, "sigt")
    is_problem(fleet.call("DELETE", f"/v1/device-filters/{kept['id']}", Role.VIEWER), 404)
    assert fleet.call("DELETE", f"/v1/device-filters/{kept['id']}", Role.OPERATOR).status_code == 204
    one, two = raise_alarms(fleet, machine, anomaly(), anomaly())
    fleet.call("PUT", f"/v1/anomalies/{one}/verdict", Role.OPERATOR, json={"verdict": "true_alarm"})
    for judged, there in (("true", [one]), ("false", [two])):
        items = fleet.call("GET", f"/v1/anomalies?device={machine.name}&judged={judged}").json()["items"]
        assert [item["id"] for item in items] == there
