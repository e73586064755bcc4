"""Browsers sign in and out: what a cookie is good for, what ends it, and where forms may come from."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from dashboard_world import HOST, Browser, text_of
from fleet_api_world import Fleet, fleet, is_problem
from fleet_world import Machine, enrol_directly
from sqlalchemy import select, update

from fleet.api.page_paths import PAGE_BYTES
from fleet.auth import web_sessions
from fleet.auth.operator_tokens import SessionRows
from fleet.storage.access_tables import WebSession
from service.roles import Role
from service.tokens import TokenGrant, create_token, revoke_token, rotate_token

__all__ = ["fleet"]  # the fixture


def token(fleet: Fleet, name: str, **grant: Any) -> str:
    grant = {"role": Role.OPERATOR, "person": "ann"} | grant
    with fleet.database.write() as session:
        return create_token(
            SessionRows(session),
            TokenGrant(name=name, **grant),
            prefix="fo_",
            now=fleet.now(),
            random_bytes=lambda count: name.encode().ljust(count, b"."),
        )


def test_a_stranger_is_sent_to_sign_in_and_then_where_they_wanted_to_go(fleet: Fleet) -> None:
    stranger = Browser(fleet, None)
    sent = stranger.get("/sessions?x=1")
    assert sent.headers["location"] == "/sign-in?next=%2Fsessions%3Fx%3D1"
    assert 'value="/sessions?x=1"' in stranger.get(sent.headers["location"]).text
    done = stranger.post("/sign-in", token=fleet.tokens[Role.VIEWER], next="/sessions?x=1")
    assert done.headers["location"] == "/sessions?x=1"
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "/a b", ""]
)
def test_signing_in_leads_nowhere_else(fleet: Fleet, elsewhere: str) -> None:
    done = Browser(fleet, None).post("/sign-in", token=fleet.tokens[Role.VIEWER], next=elsewhere)
    assert done.headers["location"] == "/"


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(fleet: Fleet) -> None:
    done = Browser(fleet, None).post("/sign-in", token=fleet.tokens[Role.VIEWER])
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    over_tls = fleet.client.post(
        "https://testserver/sign-in",
        data={"token": fleet.tokens[Role.VIEWER]},
        headers={"origin": "https://testserver"},
        follow_redirects=False,
    )
    assert over_tls.headers["set-cookie"].startswith("__Host-fedge=fs_")
    assert "Secure" in over_tls.headers["set-cookie"]


def test_a_cookie_is_no_token_and_a_token_no_cookie(fleet: Fleet) -> None:
    browser = Browser(fleet, Role.ADMIN)
    is_problem(fleet.call("GET", "/v1/devices", browser.cookies["fedge"]), 401, "nobody here")
    browser.cookies["fedge"] = fleet.tokens[Role.ADMIN]
    assert browser.get("/").headers["location"] == "/sign-in"


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://testserver.evil.example"])
def test_a_form_from_elsewhere_does_nothing(fleet: Fleet, origin: str | None) -> None:
    browser = Browser(fleet)
    assert browser.post("/sign-out", origin=origin).status_code == 403
    assert browser.get("/").status_code == 200


def test_signing_out_ends_the_session_itself(fleet: Fleet) -> None:
    browser = Browser(fleet)
    kept = dict(browser.cookies)
    assert browser.post("/sign-out").headers["location"] == "/sign-in"
    assert browser.cookies == {}
    browser.cookies = kept
    assert browser.get("/").status_code == 303


def test_a_program_does_not_sign_in(fleet: Fleet) -> None:
    program = token(fleet, "robot", is_program=True)
    for held in (program, fleet.tokens[Role.PUBLISHER]):
        refused = Browser(fleet, None).post("/sign-in", token=held)
        assert refused.status_code == 401
        assert "is a program" in text_of(refused)


@pytest.mark.parametrize("deed", ["revoke", "rotate"])
def test_a_session_ends_with_its_token(fleet: Fleet, deed: str) -> None:
    held = token(fleet, f"held-{deed}")
    browser = Browser(fleet, None)
    browser.post("/sign-in", token=held)
    assert browser.get("/").status_code == 200
    with fleet.database.write() as session:
        if deed == "revoke":
            revoke_token(SessionRows(session), f"held-{deed}", fleet.now())
        else:
            rows = SessionRows(session)
            rotate_token(rows, f"held-{deed}", prefix="fo_", now=fleet.now(), random_bytes=bytes, grace_s=0)
    assert browser.get("/").status_code == 303
    assert browser.cookies == {}
    assert browser.post("/sessions/x/end").status_code == 401


def test_a_form_of_somebody_who_is_signed_out_does_nothing_and_says_so(fleet: Fleet) -> None:
    browser = Browser(fleet)
    browser.cookies["fedge"] = "fs_over"
    answer = browser.post("/sign-out")
    assert answer.status_code == 401
    assert "nothing was done" in text_of(answer)


def test_a_session_ends_by_itself(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_S", "LONGEST_S"):
        with monkeypatch.context() as patch:
            patch.setattr(web_sessions, name, -1.0)
            browser = Browser(fleet)
            assert browser.get("/").status_code == 303, name


def test_a_link_signs_one_browser_in_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    link = fleet.call("POST", "/v1/sign-in-links", Role.OPERATOR).json()["path"]
    browser = Browser(fleet, None)
    code = link.partition("code=")[2]
    assert code in browser.get(link).text  # a mail program may look at it before
    assert browser.post("/sign-in", code=code).status_code == 303
    assert "a-operator" in text_of(browser.get("/"))
    again = Browser(fleet, None).post("/sign-in", code=code)
    assert again.status_code == 401
    assert "was used" in text_of(again)
    monkeypatch.setattr(web_sessions, "CODE_S", -1.0)
    late = fleet.call("POST", "/v1/sign-in-links", Role.OPERATOR).json()["path"].partition("code=")[2]
    assert Browser(fleet, None).post("/sign-in", code=late).status_code == 401


def test_people_end_their_own_sessions_and_an_admin_anybodys(fleet: Fleet) -> None:
    mine, other, admin = (
        Browser(fleet, Role.OPERATOR),
        Browser(fleet, Role.OPERATOR),
        Browser(fleet, Role.ADMIN),
    )
    listed = {
        one.id: one.token
        for one in fleet.client.app.state.services.sessions.listed(  # type: ignore[attr-defined] # a FastAPI app
            fleet.client.app.state.services.sessions.find_caller(admin.cookies["fedge"])  # type: ignore[attr-defined] # the same
        )
    }
    own = fleet.client.app.state.services.sessions.id_of(other.cookies["fedge"])  # type: ignore[attr-defined] # the same
    of_admin = next(name for name, held in listed.items() if held == "a-admin")
    assert mine.post(f"/sessions/{of_admin}/end").status_code == 404
    assert mine.follow(mine.post(f"/sessions/{own}/end")).status_code == 200
    assert other.get("/").status_code == 303
    assert fleet.actions("a-operator")[-1] == "session_ended"


def test_every_page_forbids_what_a_page_need_not_do(fleet: Fleet) -> None:
    browser = Browser(fleet)
    for address in ("/", "/sign-in", "/nowhere", "/devices/press-1?span=1h"):
        policy = browser.get(address).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'sha256-" in policy
    assert browser.get("/").headers["cache-control"] == "no-store"


def test_a_page_is_one_answer_and_the_policy_lets_in_its_own_script_and_style_alone(fleet: Fleet) -> None:
    enrol_directly(fleet.database, Machine(name="press-inline"))
    browser = Browser(fleet)
    for address, scripts in (("/", 1), ("/devices/press-inline", 2)):
        answer = browser.get(address)
        policy = answer.headers["content-security-policy"]
        assert not re.findall(r"<[^>]+ (?:src|rel=\"stylesheet\")", answer.text), "nothing is fetched besides"
        found = re.findall(r"<(script|style)>(.*?)</\1>", answer.text, re.DOTALL)
        assert [tag for tag, _ in found] == ["style", *["script"] * scripts]
        for tag, text in found:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy.partition(f"{tag}-src")[2].partition(";")[0]


def test_what_is_no_page_is_said_on_a_page_and_of_the_api_as_a_problem(fleet: Fleet) -> None:
    browser = Browser(fleet)
    missing = browser.get("/nowhere")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=utf-8")
    is_problem(fleet.call("GET", "/v1/nowhere"), 404)
    is_problem(fleet.call("DELETE", "/v1/devices"), 405)
    is_problem(fleet.client.get("/v1/nowhere"), 401)


def test_who_follows_a_link_from_a_mail_comes_in_with_their_cookie(fleet: Fleet) -> None:
    followed = Browser(fleet, None).get("/sessions", **{"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in followed.text
    assert HOST not in followed.text


def test_a_form_that_is_too_large_is_a_problem_whether_or_not_it_says_how_large_it_is(fleet: Fleet) -> None:
    form = {"origin": HOST, "content-type": "application/x-www-form-urlencoded"}
    large = b"token=" + b"a" * PAGE_BYTES
    for body in (large, (large[first : first + 9000] for first in range(0, len(large), 9000))):
        answer = fleet.client.post("/sign-in", content=body, headers=form)
        is_problem(answer, 413)
        assert str(PAGE_BYTES) in answer.json()["detail"]
    almost = fleet.client.post("/sign-in", content=large[:PAGE_BYTES], headers=form)
    assert almost.headers["content-type"].startswith("text/html")


def test_no_look_at_a_page_waits_for_the_disk_and_when_it_was_is_written_down_all_the_same(
    fleet: Fleet,
) -> None:
    browser = Browser(fleet)
    sessions = fleet.client.app.state.services.sessions  # type: ignore[attr-defined] # a FastAPI app
    long_ago = fleet.now() - web_sessions.IDLE_S + 100
    mine = WebSession.id == sessions.id_of(browser.cookies["fedge"])
    with fleet.database.write() as session:
        session.execute(update(WebSession).where(mine).values(last_used_at=long_ago))

    def noted() -> float:
        with fleet.database.read() as session:
            return session.scalars(select(WebSession.last_used_at).where(mine)).one()

    assert browser.get("/").status_code == 200
    assert noted() == long_ago
    sessions.store_uses()
    assert noted() == pytest.approx(fleet.now(), abs=60)
