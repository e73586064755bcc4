"""Slack's incoming webhooks: for people. What devices and people wrote goes in as plain text, where no character means anything.

The text that is shown in notifications knows markup, so there the three characters that begin it are escaped. Slack has no key by
which it would know a message again: after a crash in the worst moment one is there twice.

Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and .../formatting-message-text (escaping).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from fleet.alert_settings import SlackReceiver, check_url
from fleet.alerts.digest import digest_lines
from fleet.alerts.messages import Message
from fleet.alerts.outbox import Event, Later, Outcome
from fleet.alerts.receivers.port import post
from service.secret_files import read_secret

__all__ = ["SlackSender", "slack_body"]

HEADER, SECTION, TEXT, BLOCKS = 150, 2900, 3000, 45
"""Characters that Slack takes in a header, a section and the text; blocks in a message. A little less than its limits."""

_MARKS: Final = {"critical": "🔴", "error": "🟠", "warning": "🟡", "info": "🔵"}


class SlackSender:
    """See the module.

    Args:
        receiver: its settings.
        now: Unix seconds.
    """

    at_once = 100

    def __init__(self, receiver: SlackReceiver, now: Callable[[], float] = time.time) -> None:
        self._receiver, self._now = receiver, now

    async def send(self, messages: Sequence[Message]) -> Outcome:
        """See `Sender.send`."""
        url = read_secret(self._receiver.url_file, "url_file")
        try:
            check_url(url, "url_file")
        except ValueError:
            return Later("url_file: it holds no https:// address")
        return await post(
            url,
            json.dumps(slack_body(messages)).encode(),
            {"Content-Type": "application/json"},
            ca_file=self._receiver.ca_file,
            secret=url,
            now=self._now(),
        )


def slack_body(messages: Sequence[Message]) -> dict[str, Any]:
    """One message of Slack for one of ours, or for many."""
    if len(messages) == 1:
        (message,) = messages
        mark = "✅" if message.event is Event.RESOLVED else _MARKS[message.severity]
        title, lines = f"{mark} {message.title}", message.facts
    else:
        title, lines = f"{len(messages)} alerts of {messages[0].tenant} at once", digest_lines(messages)
    blocks = [{"type": "header", "text": _plain(title, HEADER)}]
    blocks += [{"type": "section", "text": _plain(text, SECTION)} for text in _sections(lines)]
    if link := next((message.url for message in messages if message.url), ""):
        target = link if len(messages) == 1 else link.partition("?")[0]
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"<{_escaped(target)}|Open>"}})
    return {"text": _escaped(title)[:TEXT], "blocks": blocks}


def _sections(lines: Sequence[str]) -> list[str]:
    """Lines in texts of at most `SECTION` characters."""
    texts: list[str] = []
    for line in (line[: SECTION - 1] for line in lines):
        if texts and len(texts[-1]) + len(line) < SECTION:
            texts[-1] += f"\n{line}"
        else:
            texts.append(line)
    return texts[:BLOCKS]


def _plain(text: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "emoji": False, "text": text[:most]}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "%7C")
