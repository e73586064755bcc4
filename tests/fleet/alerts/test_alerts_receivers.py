"""Each receiver's language, spoken to real servers of the test's own: what they hear, and what is made of their answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from told_servers import Authority, HttpListener, Mailbox, http_listener, mail_server, secret

from fleet.alert_settings import (
    AlertSettings,
    AnyReceiver,
    EmailReceiver,
    PagerDutyReceiver,
    Severity,
    SlackReceiver,
    WebhookReceiver,
)
from fleet.alerts.delivering import send_safely
from fleet.alerts.messages import Message, Named, trial_message
from fleet.alerts.outbox import Delivered, Event, Later, Outcome, Refused
from fleet.alerts.receivers import port as port_module
from fleet.alerts.receivers.assembly import check_receivers, open_sender
from runtime.errors import SettingsError

KEY = "R" * 32
HOSTILE = "<!channel> <https://evil.example|press> & *bold* \r\nBcc: eve@evil.example"


def message(**changes: Any) -> Message:
    fields: dict[str, Any] = {
        "id": "fedge-1.opened",
        "dedup_key": "fedge-1",
        "event": Event.OPENED,
        "tenant": "demo",
        "kind": "anomaly",
        "severity": Severity.ERROR,
        "family": "motor",
        "site": "hall-1",
        "alerts": 2,
        "lasting": 2,
        "times": 3,
        "first": [
            Named(subject="press-1", detail="score 2", times=2),
            Named(subject="press-2", detail="", times=1),
        ],
        "opened_at": 1_767_225_600.0,
        "resolved_at": None,
        "url": "https://fleet.example/alerts?group=fedge-1",
    }
    return Message(**fields | changes)


OVER = message(id="fedge-1.resolved", event=Event.RESOLVED, resolved_at=1_767_229_200.0, lasting=0)


def told(receiver: AnyReceiver, *messages: Message) -> Outcome:
    return asyncio.run(send_safely(open_sender(receiver), messages or [message()]))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def listener(authority: Authority) -> Iterator[HttpListener]:
    with http_listener(authority) as listener:
        yield listener


def webhook(listener: HttpListener, authority: Authority, **changes: Any) -> WebhookReceiver:
    return WebhookReceiver(**{"name": "w", "url": listener.url, "ca_file": authority.ca_file} | changes)


def test_a_webhook_gets_one_cloud_event_or_a_batch_of_them(
    listener: HttpListener, authority: Authority, tmp_path: Path
) -> None:
    receiver = webhook(listener, authority, token_file=secret(tmp_path, "token", "let me in"))
    assert told(receiver) == Delivered()
    assert told(receiver, message(), OVER) == Delivered()
    one, both = listener.heard
    assert one.headers["authorization"] == "Bearer let me in"
    assert one.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert one.body["specversion"] == "1.0"
    assert one.body["type"] == "dev.fedge.alert.opened.v1"
    assert (one.body["source"], one.body["id"]) == ("/fedge/demo/fleet", "fedge-1.opened")
    assert one.body["time"] == "2026-01-01T00:00:00Z"
    assert one.body["data"]["title"] == "Anomaly on 2 devices at hall-1 (motor)"
    assert one.body["data"]["first"][0] == {"subject": "press-1", "detail": "score 2", "times": 2}
    assert both.headers["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert [event["id"] for event in both.body] == ["fedge-1.opened", "fedge-1.resolved"]
    assert {event["subject"] for event in both.body} == {"fedge-1"}


def test_pagerduty_gets_an_incident_its_end_and_notices_that_fetch_nobody(
    listener: HttpListener, authority: Authority, tmp_path: Path
) -> None:
    listener.answer = lambda _heard: (202, {}, b'{"status": "success"}')
    url = listener.url.replace("/hook", "/v2/enqueue")
    key = secret(tmp_path, "key", KEY)
    receiver = PagerDutyReceiver(name="p", url=url, routing_key_file=key, ca_file=authority.ca_file)
    for one in (
        message(),
        OVER,
        message(kind="release", event=Event.OPENED),
        trial_message("demo", 1.0, "a"),
    ):
        assert told(receiver, one) == Delivered()
    opened, over, released, test = listener.heard
    assert opened.path == over.path == "/v2/enqueue"
    assert released.path == test.path == "/v2/change/enqueue"
    assert opened.body["event_action"], over.body["event_action"] == ("trigger", "resolve")
    assert opened.body["dedup_key"] == over.body["dedup_key"] == "fedge-1"
    assert opened.body["routing_key"] == KEY
    payload = opened.body["payload"]
    assert (payload["severity"], payload["source"], payload["class"]) == ("error", "hall-1", "anomaly")
    assert payload["custom_details"]["first"] == ["press-1: score 2", "press-2"]
    assert opened.body["links"][0]["href"].startswith("https://fleet.example/")
    assert "event_action" not in released.body


def test_slack_takes_what_devices_say_as_text_and_never_as_markup(
    listener: HttpListener, authority: Authority, tmp_path: Path
) -> None:
    receiver = SlackReceiver(
        name="s", url_file=secret(tmp_path, "url", listener.url), ca_file=authority.ca_file
    )
    hostile = message(site=HOSTILE, first=[Named(subject=HOSTILE, detail=HOSTILE, times=1)], alerts=1)
    assert told(receiver, hostile) == Delivered()
    assert told(receiver, *[replace(hostile, dedup_key=f"fedge-{n}") for n in range(100)]) == Delivered()
    for heard in listener.heard:
        assert "<!channel>" not in heard.body["text"]
        assert "<https://evil" not in heard.body["text"]
        for block in heard.body["blocks"]:
            text = block["text"]
            is_link = text == {"type": "mrkdwn", "text": text["text"]}
            assert text["type"] == "plain_text" or (is_link and "evil" not in text["text"])
            assert len(text["text"]) <= 3000
        assert len(heard.body["blocks"]) <= 50
    assert "100 alerts of demo at once" in listener.heard[1].body["text"]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (204, {}, Delivered()),
        (503, {}, Later("it answered 503 Service Unavailable")),
        (429, {"Retry-After": "77"}, Later("it answered 429 Too Many Requests", 77.0)),
        (408, {}, Later("it answered 408 Request Timeout")),
        (400, {}, Refused("it answered 400 Bad Request")),
        (413, {}, Refused("it answered 413 Request Entity Too Large")),
        (401, {}, Refused("it answered 401 Unauthorized", is_of_receiver=True)),
        (410, {}, Refused("it answered 410 Gone", is_of_receiver=True)),
    ],
)
def test_what_an_answer_means(
    status: int,
    headers: dict[str, str],
    expected: Outcome,
    listener: HttpListener,
    authority: Authority,
) -> None:
    listener.answer = lambda _heard: (status, headers, b"")
    assert told(webhook(listener, authority)) == expected


def test_a_time_until_which_a_receiver_wants_to_rest_is_obeyed(
    listener: HttpListener, authority: Authority
) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    listener.answer = lambda _heard: (503, {"Retry-After": until}, b"")
    outcome = told(webhook(listener, authority))
    assert isinstance(outcome, Later)
    assert outcome.after_s is not None
    assert 500 < outcome.after_s <= 600


def test_a_redirect_is_not_followed(listener: HttpListener, authority: Authority) -> None:
    with http_listener(authority) as inner:
        listener.answer = lambda _heard: (307, {"Location": inner.url}, b"")
        outcome = told(webhook(listener, authority))
        assert isinstance(outcome, Refused)
        assert outcome.is_of_receiver
        assert "redirects are not followed" in outcome.reason
        assert not inner.heard


def test_no_secret_is_in_what_is_said_of_an_answer_that_repeats_it_or_in_the_log(
    listener: HttpListener, authority: Authority, tmp_path: Path
) -> None:
    listener.answer = lambda heard: (400, {}, json.dumps(heard.body).encode() + heard.path.encode())
    key = secret(tmp_path, "key", KEY)
    receivers: list[tuple[AnyReceiver, str]] = [
        (PagerDutyReceiver(name="p", url=listener.url, routing_key_file=key, ca_file=authority.ca_file), KEY),
        (SlackReceiver(name="s", url_file=secret(tmp_path, "u", "https://localhost:1/SECRET")), "SECRET"),
        (SlackReceiver(name="s", url_file=secret(tmp_path, "v", "ftp://SECRET")), "SECRET"),
    ]
    with structlog.testing.capture_logs() as logs:
        for receiver, hidden in receivers:
            outcome = told(receiver)
            assert not isinstance(outcome, Delivered)
            assert hidden not in outcome.reason
    assert KEY not in str(logs)
    assert "SECRET" not in str(logs)


def test_a_server_that_is_not_there_or_is_not_who_it_says_or_dribbles_is_tried_later(
    listener: HttpListener, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers = told(WebhookReceiver(name="w", url=listener.url))
    assert isinstance(strangers, Later)
    assert "certificate" in strangers.reason.lower()

    gone = told(WebhookReceiver(name="w", url="https://127.0.0.1:1/"))
    assert isinstance(gone, Later)
    monkeypatch.setattr(port_module, "LONGEST_S", 0.3)

    def dribble(_heard: object) -> tuple[int, dict[str, str], bytes]:
        time.sleep(1.0)
        return 200, {}, b""

    listener.answer = dribble
    assert isinstance(told(webhook(listener, authority)), Later)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def mail(port: int, authority: Authority, folder: Path, **changes: Any) -> EmailReceiver:
    fields: dict[str, Any] = {
        "name": "people",
        "host": "localhost",
        "port": port,
        "sender": "fedge@plant.example",
        "to": ("ann@plant.example", "bob@plant.example"),
        "username": "fedge",
        "password_file": secret(folder, "password", "pass phrase"),
        "ca_file": authority.ca_file,
    }
    return EmailReceiver(**fields | changes)


def test_mail_is_sent_over_tls_with_a_login_and_a_storm_is_one_conversation(
    authority: Authority, mailbox: Mailbox, tmp_path: Path
) -> None:
    with mail_server(authority, mailbox) as port:
        receiver = mail(port, authority, tmp_path)
        assert told(receiver) == Delivered()
        assert told(receiver, OVER) == Delivered()
        assert told(receiver, message(site=HOSTILE)) == Delivered()
        assert told(receiver, *[message(dedup_key=f"fedge-{n}") for n in range(3)]) == Delivered()
    opened, over, hostile, many = mailbox.mails
    assert mailbox.logins[0] == (b"fedge", b"pass phrase")
    assert opened["Subject"] == "[error] Anomaly on 2 devices at hall-1 (motor)"
    assert opened["Auto-Submitted"] == "auto-generated"
    assert over["In-Reply-To"] == opened["Message-ID"] == "<fedge-1.opened@plant.example>"
    assert "press-1: score 2 (2 times)" in opened.get_content()
    assert "https://fleet.example/alerts?group=fedge-1" in opened.get_content()
    assert hostile["Bcc"] is None
    assert hostile.get_content_type() == "text/plain"
    assert mailbox.recipients == [["ann@plant.example", "bob@plant.example"]] * 4
    assert many["Subject"] == "3 alerts of demo at once"


def test_what_a_mail_server_says_is_obeyed(authority: Authority, mailbox: Mailbox, tmp_path: Path) -> None:
    with mail_server(authority, mailbox) as port:
        receiver = mail(port, authority, tmp_path)
        mailbox.trouble = "451 greylisted, come back"
        assert told(receiver) == Later("the mail server answered 451 greylisted, come back")
        mailbox.trouble = "554 no"
        assert told(receiver) == Refused("the mail server answered 554 no")
        mailbox.trouble, mailbox.refused = "", {"bob@plant.example"}
        assert told(receiver) == Delivered("not to bob@plant.example: refused")
        mailbox.refused = {"ann@plant.example", "bob@plant.example"}
        assert isinstance(told(receiver), Refused)
        mailbox.refused = set()
        wrong = mail(port, authority, tmp_path, password_file=secret(tmp_path, "wrong", "hunter2"))
        outcome = told(wrong)
        assert isinstance(outcome, Refused)
        assert outcome.is_of_receiver
        assert "hunter2" not in outcome.reason
        nobody = told(mail(port, authority, tmp_path, ca_file=None))
        assert isinstance(nobody, Later)
        assert "certificate" in nobody.reason.lower()
    assert isinstance(told(receiver), Later)


def test_settings_are_refused_that_would_send_in_clear_or_name_files_that_are_no_secrets(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="would send alerts in clear"):
        WebhookReceiver(name="w", url="http://example.org/")
    with pytest.raises(ValueError, match="no user in it"):
        WebhookReceiver(name="w", url="https://user:word@example.org/")
    with pytest.raises(ValueError, match="belong together"):
        EmailReceiver(name="m", host="h", sender="a@b.example", to=("c@d.example",), username="x")
    with pytest.raises(ValueError, match="two receivers are called 'w'"):
        AlertSettings(receivers=(WebhookReceiver(name="w", url="https://a/"),) * 2)
    open_file = tmp_path / "open"
    open_file.write_text("https://hooks.example/x\n")
    open_file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"'s': url_file: .* is open to every user"):
        check_receivers(AlertSettings(receivers=(SlackReceiver(name="s", url_file=open_file),)))
    plain = secret(tmp_path, "plain", "http://hooks.example/SECRET")
    with pytest.raises(SettingsError, match="does not hold an https:// address") as refused:
        check_receivers(AlertSettings(receivers=(SlackReceiver(name="s", url_file=plain),)))
    assert "SECRET" not in str(refused.value)
