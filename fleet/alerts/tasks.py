"""The tasks of a leader that make alerts and bring them to each receiver."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from fleet.alerts.delivering import Courier
from fleet.alerts.notifier import Notifier
from fleet.alerts.receivers.assembly import open_sender
from fleet.settings import Settings
from fleet.storage.base import Database

__all__ = ["alert_tasks", "public_url"]


def alert_tasks(
    database: Database, settings: Settings, count: Callable[[str, str, int], None]
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Name → task, to run while this process leads.

    Args:
        database: the fleet's, as its leader writes to it.
        settings: of the service.
        count: told the receiver's name, what became of an attempt, and how many messages it had.
    """
    tenant = settings.tenant
    notifier = Notifier(database, settings.alerts, tenant=tenant, now=time.time)
    couriers = {
        f"alerts_to_{receiver.name}": Courier(
            database,
            receiver,
            open_sender(receiver),
            tenant=tenant,
            public_url=public_url(settings),
            now=time.time,
            count=count,
        ).run
        for receiver in settings.alerts.receivers
    }
    return {"alerts": notifier.run, **couriers}


def public_url(settings: Settings) -> str:
    """Where people open the dashboard; "" where that is not set."""
    return settings.dashboard.public_url or ""
