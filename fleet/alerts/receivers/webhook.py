"""CloudEvents 1.0 over HTTP: for programs. One event in structured mode, several in batched mode.

A receiver knows an event that it has already by its `source` and `id`. `subject` is the storm's dedup key, in all its events.

Source: CloudEvents v1.0.2, HTTP Protocol Binding, sections 3.2 and 3.3.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fleet.alert_settings import WebhookReceiver
from fleet.alerts.messages import Message
from fleet.alerts.outbox import Outcome
from fleet.alerts.receivers.port import post
from service.secret_files import read_secret

__all__ = ["WebhookSender", "cloud_event"]


class WebhookSender:
    """See the module.

    Args:
        receiver: its settings.
        now: Unix seconds.
    """

    at_once = 100

    def __init__(self, receiver: WebhookReceiver, now: Callable[[], float] = time.time) -> None:
        self._receiver, self._now = receiver, now

    async def send(self, messages: Sequence[Message]) -> Outcome:
        """See `Sender.send`."""
        token_file = self._receiver.token_file
        token = read_secret(token_file, "token_file") if token_file else ""
        events = [cloud_event(message) for message in messages]
        one = len(events) == 1
        headers = {"Content-Type": f"application/cloudevents{'' if one else '-batch'}+json; charset=utf-8"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return await post(
            self._receiver.url,
            json.dumps(events[0] if one else events, ensure_ascii=False).encode(),
            headers,
            ca_file=self._receiver.ca_file,
            secret=token,
            now=self._now(),
        )


def cloud_event(message: Message) -> dict[str, Any]:
    """A message as CloudEvents writes it in JSON."""
    at = message.opened_at if message.resolved_at is None else message.resolved_at
    data = {name: value for name, value in asdict(message).items() if name not in {"id", "event", "tenant"}}
    return {
        "specversion": "1.0",
        "id": message.id,
        "source": f"/fedge/{message.tenant}/fleet",
        "type": f"dev.fedge.alert.{message.event}.v1",
        "subject": message.dedup_key,
        "time": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"title": message.title, **data},
    }
