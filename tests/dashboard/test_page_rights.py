"""Every page and every form of the dashboard, asked as everybody by plain HTTP: who gets in is what docs/people.md says, and nothing fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from dashboard_world import HOST, Browser
from databases import Databases, SqliteDatabases
from fastapi.routing import APIRoute
from fleet_api_world import Fleet, fleet
from fleet_world import Machine, anomaly, bundle, enrol_directly, health
from rights_table import Call, address, written_rights

from fleet.dashboard.site import PAGES
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from service.roles import Role

__all__ = ["fleet"]  # the fixture

pytestmark = pytest.mark.slow
RIGHTS = written_rights("fleet", "page")
PEOPLE = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, None)
HOSTILE = (
    "",
    "x" * 1900,
    "\x00",
    "%00%ff",
    "🙂\u202e",
    "-1",
    "9" * 30,
    "1e999",
    "nan",
    "' OR 1=1 --",
    "../../etc/passwd",
    "//evil.example/",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "a==b;;c=in=(",
)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: who gets in does not hang on the database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def stocked(fleet: Fleet) -> Fleet:
    """With a device, an alarm and two releases, so that forms find something."""
    machine = Machine(name="press-1")
    enrol_directly(fleet.database, machine)
    store = EventStore(fleet.database, "demo", FleetMetrics())
    now = fleet.now()
    store.store([machine.arrival(one, at=now) for one in (health(), anomaly(), anomaly(window_index=8))])
    for version in (1, 2):
        fleet.publish(bundle(version))
    return fleet


def routes() -> Iterator[tuple[Call, APIRoute]]:
    for router in PAGES:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods - {"HEAD"}:
                yield (method, route.path), route


def may(who: frozenset[str], role: Role | None) -> bool:
    return "everybody" in who or (role is not None and str(role) in {one.split()[0] for one in who})


def filled(path: str) -> str:
    return address(path.replace(":path}", "}"), device_id="press-1", family="motor", version="1")


def test_every_page_has_a_line_and_every_line_a_page() -> None:
    assert {call for call, _ in routes()} == set(RIGHTS)
    assert len(RIGHTS) >= 5


def test_who_gets_in_is_what_is_written(stocked: Fleet) -> None:
    wrong: list[tuple[Call, Role | None, int]] = []
    for (method, path), who in RIGHTS.items():
        for role in PEOPLE:
            browser = Browser(stocked, role)
            answer = browser.get(filled(path)) if method == "GET" else browser.post(filled(path))
            status = answer.status_code
            to_sign_in = answer.headers.get("location", "").startswith("/sign-in")
            is_out = status in {401, 403} if role or method != "GET" else status == 303 and to_sign_in
            # a wrong token is 401 as well: the form of who signs in
            if status >= 500 or (is_out is may(who, role) and path != "/sign-in"):
                wrong.append(((method, path), role, status))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://testserver.evil.example"])
def test_a_form_that_did_not_come_from_a_page_of_ours_does_nothing(
    stocked: Fleet, origin: str | None
) -> None:
    browser = Browser(stocked, Role.ADMIN)
    for method, path in RIGHTS:
        if method == "POST":
            answer = browser.post(filled(path), origin=origin)
            assert answer.status_code == 403, path
            assert "did not come from this page" in answer.text
    assert browser.get("/").status_code == 200, "still signed in: the form to sign out did nothing either"


def test_no_address_and_no_form_makes_a_page_fail_or_becomes_markup(stocked: Fleet) -> None:
    browser, wrong = Browser(stocked, Role.ADMIN), list[str]()
    for (method, path), route in routes():
        for text in HOSTILE:
            place = re.sub(r"\{[^}]+\}", quote(text, safe="") or "x", path)
            for answer in asked(browser, method, path, place, route, text):
                if answer.status_code >= 500 or "<script>alert" in answer.text or "<img src=x" in answer.text:
                    wrong.append(f"{method} {path} {text[:30]!r}: {answer.status_code} {answer.text[-300:]}")
            if not browser.cookies:
                browser = Browser(stocked, Role.ADMIN)
    assert not wrong, "\n".join(wrong)


def asked(browser: Browser, method: str, path: str, place: str, route: APIRoute, text: str) -> Iterator[Any]:
    """Hostile words as a path, as each parameter of the address, and in each field of the form."""
    if "{" in path:
        yield browser.get(place) if method == "GET" else browser.post(place)
    names = [field.alias for field in route.dependant.query_params]
    for name in names if method == "GET" else ():
        yield browser.get(f"{filled(path)}?{urlencode({name: text})}")
    fields = {field.alias: text for field in route.dependant.body_params}
    if method == "POST" and fields:
        yield browser.post(filled(path), **fields)


def test_a_host_of_another_name_sends_no_form_here(stocked: Fleet) -> None:
    browser = Browser(stocked, Role.ADMIN)
    answer = browser.post("/sign-out", origin=HOST.replace("http:", "https:") + ":8443")
    assert answer.status_code == 403
