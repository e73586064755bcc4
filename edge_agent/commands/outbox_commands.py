"""``fedge-agent retry-parked`` and ``take-over-events``: what a person can do for events that do not leave by themselves.

Both write into the outbox's file, whether the agent runs or not; one that runs finds it within a minute.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge_agent.enrolled import load_enrolled
from edge_agent.event_store import EventStore
from edge_agent.outbox_files import aside_files
from edge_agent.outbox_owner import SORT, Owner, take_over
from edge_agent.settings import Settings
from runtime.errors import StorageError

__all__ = ["retry_parked", "take_over_events"]

_ATTEMPTS = 20
_PAUSE_S = 0.25


def retry_parked(settings: Settings) -> str:
    """Offer what was parked to the broker again; returns a sentence for who asked.

    Raises:
        StorageError: the outbox cannot be opened or written.
    """
    path = settings.paths.outbox
    if not path.exists():
        raise StorageError(f"there is no {path}; has the agent been started with this configuration?")
    try:
        return f"{_patiently(lambda: _take_parked(path))} parked events are offered again"
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be written: {error}") from None


def take_over_events(settings: Settings) -> str:
    """Have events of this machine's former identity delivered under its present one; returns a sentence for who asked.

    Raises:
        StorageError: a file cannot be read or written, or holds events of another tenant, or of a later version.
        NotEnrolledError: this device has no identity.
    """
    paths = settings.paths
    enrolled = load_enrolled(paths.enrolment)
    owner = Owner(tenant=enrolled.tenant, device=enrolled.device)
    files = aside_files(paths.outbox, SORT)
    count = 0
    for aside in files:
        try:
            count += _patiently(partial(take_over, paths.outbox, aside, owner))
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"{aside} was not taken over: {error}") from None
    return f"{count} events of {len(files)} outboxes that were set aside are delivered as {owner.device} from now on"


def _take_parked(path: Path) -> int:
    with contextlib.closing(EventStore(path)) as store:
        return store.take_parked()


def _patiently(work: Callable[[], int]) -> int:
    """Do it as soon as the agent, which may be writing just now, lets us; raises sqlite3.Error where it never does."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(sqlite3.OperationalError):
            return work()
        time.sleep(_PAUSE_S)
    return work()
