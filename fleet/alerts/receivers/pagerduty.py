"""PagerDuty, Events API v2: a storm is an incident, by its dedup key; a notice is a change event, which fetches nobody.

Source: https://developer.pagerduty.com/docs/events-api-v2/overview (trigger, resolve, change events; 202, 400, 429, 5xx).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fleet.alert_settings import AlertKind, PagerDutyReceiver
from fleet.alerts.kinds import TERMS
from fleet.alerts.messages import Message
from fleet.alerts.outbox import Event, Outcome
from fleet.alerts.receivers.port import post
from service.secret_files import read_secret

__all__ = ["PagerDutySender", "pagerduty_event"]

SUMMARY: Final = 1024


class PagerDutySender:
    """See the module. One event a request: there is no other way.

    Args:
        receiver: its settings.
        now: Unix seconds.
    """

    at_once = 1

    def __init__(self, receiver: PagerDutyReceiver, now: Callable[[], float] = time.time) -> None:
        self._receiver, self._now = receiver, now

    async def send(self, messages: Sequence[Message]) -> Outcome:
        """See `Sender.send`."""
        (message,) = messages
        key = read_secret(self._receiver.routing_key_file, "routing_key_file")
        url = self._receiver.url
        if is_change(message):
            url = f"{url.removesuffix('/enqueue')}/change/enqueue"
        return await post(
            url,
            json.dumps(pagerduty_event(message, key)).encode(),
            {"Content-Type": "application/json"},
            ca_file=self._receiver.ca_file,
            secret=key,
            now=self._now(),
        )


def is_change(message: Message) -> bool:
    """Whether nobody is to be fetched: it is no incident."""
    return message.event is Event.TEST or TERMS[AlertKind(message.kind)].is_notice


def pagerduty_event(message: Message, routing_key: str) -> dict[str, Any]:
    """A message as PagerDuty takes it."""
    links = [{"href": message.url, "text": "Open in Fedge"}] if message.url else []
    at = datetime.fromtimestamp(message.opened_at, UTC).isoformat()
    details = {
        "alerts": message.alerts,
        "still open": message.lasting,
        "said": message.times,
        "first": [f"{one.subject}: {one.detail}".rstrip(": ") for one in message.first],
    }
    payload: dict[str, Any] = {
        "summary": message.title[:SUMMARY],
        "source": message.site or message.family or message.tenant,
        "timestamp": at,
        "custom_details": details,
    }
    if is_change(message):
        return {"routing_key": routing_key, "payload": payload, "links": links}
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "resolve" if message.event is Event.RESOLVED else "trigger",
        "dedup_key": message.dedup_key,
    }
    if message.event is Event.RESOLVED:
        return event
    payload |= {"severity": message.severity.value, "component": message.family, "group": message.site}
    payload["class"] = message.kind
    return {**event, "payload": payload, "links": links, "client": "Fedge", "client_url": message.url}
