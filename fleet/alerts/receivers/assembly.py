"""From settings to senders, and a check of what the settings name."""

from __future__ import annotations

import ssl
from typing import assert_never

from fleet.alert_settings import (
    AlertSettings,
    AnyReceiver,
    EmailReceiver,
    PagerDutyReceiver,
    SlackReceiver,
    WebhookReceiver,
    check_url,
)
from fleet.alerts.receivers.email import EmailSender
from fleet.alerts.receivers.pagerduty import PagerDutySender
from fleet.alerts.receivers.port import Sender, tls_context
from fleet.alerts.receivers.slack import SlackSender
from fleet.alerts.receivers.webhook import WebhookSender
from runtime.errors import SettingsError
from service.secret_files import read_secret

__all__ = ["check_receivers", "open_sender"]


def open_sender(receiver: AnyReceiver) -> Sender:
    """Who speaks the language of `receiver`."""
    match receiver:
        case WebhookReceiver():
            return WebhookSender(receiver)
        case SlackReceiver():
            return SlackSender(receiver)
        case PagerDutyReceiver():
            return PagerDutySender(receiver)
        case EmailReceiver():
            return EmailSender(receiver)
        case _:
            assert_never(receiver)


def check_receivers(settings: AlertSettings) -> None:
    """Read every file that receivers name; raises SettingsError for the first that cannot be used."""
    for receiver in settings.receivers:
        place = f"alerts.receivers {receiver.name!r}"
        for key, path in receiver.secret_files().items():
            secret = read_secret(path, f"{place}: {key}")
            if isinstance(receiver, SlackReceiver):
                try:
                    check_url(secret, "the address in it")
                except ValueError:
                    raise SettingsError(
                        f"{place}: {key}: {path} does not hold an https:// address, as Slack shows it for an incoming webhook"
                    ) from None
        try:
            tls_context(receiver.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"{place}: ca_file: cannot use {receiver.ca_file}: {error}") from None
