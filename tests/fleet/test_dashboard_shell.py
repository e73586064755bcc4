"""What the pages share: the overview, the audit log, the service's own health, and that open pages stay true."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import httpx
import pytest
from dashboard_world import Browser, text_of
from fleet_api_world import Fleet, fleet
from fleet_world import Machine, enrol_directly, fleet_process
from test_outages import settle
from waiting import AMPLE_S, wait_until

from fleet.auth.operator_tokens import SessionRows
from fleet.migrations.upgrade import open_storage
from fleet.storage.device_tables import Device
from service.roles import Role
from service.tokens import revoke_token

__all__ = ["fleet"]  # the fixture


def test_the_overview_counts_what_needs_a_person_and_links_to_it(fleet: Fleet) -> None:
    machine = Machine(name="press-overview")
    enrol_directly(fleet.database, machine)
    with fleet.database.write() as session:
        device = session.get_one(Device, machine.name)
        device.online, device.drifted, device.release = True, True, "motor/7"
    browser = Browser(fleet)
    shown = browser.get("/")
    assert "1 drifted" in text_of(shown)
    assert "/devices?query=drifted%3D%3Dtrue" in shown.text
    assert '<a href="/releases/motor/7">motor/7</a>' in shown.text
    assert len(shown.content) < 45_000, "with its style and its script"


def test_only_an_admin_sees_the_audit_log(fleet: Fleet) -> None:
    assert Browser(fleet, Role.OPERATOR).get("/audit").status_code == 403
    admin = Browser(fleet, Role.ADMIN)
    assert "/audit" in admin.get("/").text
    first = admin.get("/audit?action=token_created")
    assert first.text.count('<th scope="row">token created</th>') > 1
    assert "a-viewer" in text_of(admin.get("/audit?subject=a-viewer"))
    assert "Nothing of that kind" in text_of(admin.get("/audit?subject=nobody"))
    assert admin.get("/audit?after=zzz").status_code == 422


def test_the_service_says_how_it_is(fleet: Fleet) -> None:
    shown = text_of(Browser(fleet).get("/service"))
    for words in ("Database", "answers", "Broker", "Events stored", "Every message was taken"):
        assert words in shown


class Window:
    """An open page: listens to what becomes of it."""

    def __init__(self, url: str, cookies: httpx.Cookies, page: str) -> None:
        self.events: list[tuple[str, dict[str, str]]] = []
        self.is_over = False
        self._thread = threading.Thread(target=self._listen, args=(url, cookies, page), daemon=True)
        self._thread.start()

    def _listen(self, url: str, cookies: httpx.Cookies, page: str) -> None:
        name = ""
        with httpx.stream(
            "GET", f"{url}/live", params={"page": page}, cookies=cookies, timeout=AMPLE_S
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.events.append((name, json.loads(line.removeprefix("data: "))))
        self.is_over = True

    def shows(self, region: str, words: str) -> bool:
        return any(
            words in regions.get(region, "") for name, regions in list(self.events) if name == "regions"
        )


@pytest.mark.slow
def test_an_open_page_stays_true_and_ends_with_its_session(tmp_path: Path) -> None:
    config, headers = settle(tmp_path, f"sqlite:///{tmp_path}/data/fleet.sqlite")
    database = open_storage(f"sqlite:///{tmp_path}/data/fleet.sqlite")
    with fleet_process(config, tmp_path / "fleet.log") as (_child, url):
        token = headers["Authorization"].partition(" ")[2]
        signed_in = httpx.post(f"{url}/sign-in", data={"token": token}, headers={"origin": url})
        assert signed_in.status_code == 303
        windows = [Window(url, signed_in.cookies, "/") for _ in range(3)]
        audit = Window(url, signed_in.cookies, "/sessions")
        wait_until(lambda: all(window.events for window in windows), "the page to be there")
        enrol_directly(database, Machine(name="press-live"))
        wait_until(lambda: all(window.shows("versions", "1 devices") for window in windows), "all to be told")
        assert not audit.events, "a page that shows none of it is left alone"
        with database.write() as session:
            revoke_token(SessionRows(session), "ann", time.time())
        wait_until(lambda: all(window.is_over for window in (*windows, audit)), "the windows to end")
        assert windows[0].events[-1] == ("end", {})
        assert httpx.get(f"{url}/", cookies=signed_in.cookies).headers["location"] == "/sign-in"
    database.close()
    assert "Traceback" not in (tmp_path / "fleet.log").read_text()
