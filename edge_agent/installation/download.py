"""Fetching a bundle: resume, limits, patience.

It ends with all promised bytes in the store's part, whatever they are: verification comes after. What was fetched before a
kill, a broken link or a newer request is kept and continued by a Range request.

Source: RFC 9110 section 14 (range requests).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from msgspec import Struct

from edge_agent.errors import (
    FleetAnswerError,
    FleetError,
    FleetUnreachableError,
    InstallFailedError,
    InstallTimeoutError,
    ReleaseRefusedError,
)
from edge_agent.fleet_client import BundleStream
from edge_agent.installation.bundle_store import BundleStore
from protocol.messages.payloads import DesiredState
from runtime.backoff import backoff_s

__all__ = ["BundleSource", "DownloadLimits", "Patience", "download"]

log: Final = logging.getLogger(__name__)


class BundleSource(Protocol):
    """Where bundles come from; `edge_agent.fleet_client.FleetClient` is one."""

    def bundle(self, path: str, *, offset: int = 0) -> AbstractContextManager[BundleStream]:
        """Open the bundle at `path` from byte `offset` on; raises FleetError, also while it is read."""


class DownloadLimits(Struct, frozen=True, kw_only=True):
    """How long a download may take.

    Attributes:
        deadline_s: from the first request to the last byte. 15 minutes: 64 MB over a slow phone link, or a fleet restart.
        first_wait_s: upper bound of the first pause after a broken connection; doubles each time.
        longest_wait_s: upper bound of any pause.
    """

    deadline_s: float = 900.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0


class Patience(Protocol):
    """Time, as the installer's worker sees it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wait(self, seconds: float) -> None:
        """Pause; returns early, and `is_interrupted`, when a newer request arrives."""

    def is_interrupted(self) -> bool:
        """Whether a newer request is waiting: stop as soon as what was fetched is safe."""

    def jitter(self) -> float:
        """Random in [0, 1): keeps a fleet from returning all at once."""


def download(
    desired: DesiredState,
    source: BundleSource,
    store: BundleStore,
    *,
    limits: DownloadLimits,
    patience: Patience,
    on_progress: Callable[[float], None],
) -> int | None:
    """Fetch what is missing of a bundle.

    Args:
        desired: names path, length and hash.
        source: where to fetch.
        store: where to put it.
        limits: see `DownloadLimits`.
        patience: clock, pauses and interruption.
        on_progress: called with the share fetched, in [0, 1].

    Returns:
        In how many pieces, when all promised bytes are on disk; None when interrupted.

    Raises:
        InstallTimeoutError: the deadline passed.
        InstallFailedError: the fleet says no, or the disk is full.
        ReleaseRefusedError: the fleet sends more bytes than were promised.
    """
    started, fruitless, pieces = patience.now(), 0, 0
    while not patience.is_interrupted():
        have = store.part_bytes(desired.bundle_sha256)
        if have == desired.bundle_bytes:
            return pieces
        pieces += 1
        try:
            until_s = started + limits.deadline_s
            _fetch(desired, source, store, patience=patience, until_s=until_s, on_progress=on_progress)
            trouble = "the connection ended early"
        except FleetUnreachableError as error:
            trouble = str(error)
        except FleetAnswerError as error:
            trouble = _worth_retrying(desired, store, error)
        except FleetError as error:
            raise InstallFailedError(f"cannot fetch {desired.release}: {error}") from None
        now_have = store.part_bytes(desired.bundle_sha256)
        if now_have == desired.bundle_bytes or patience.is_interrupted():
            continue
        spent_s = patience.now() - started
        if spent_s >= limits.deadline_s:
            raise InstallTimeoutError(
                f"{desired.release} was not fetched in {limits.deadline_s:g} s: {now_have} of {desired.bundle_bytes} bytes; last trouble: {trouble}"
            )
        log.info("download_interrupted release=%s bytes=%d trouble=%s", desired.release, now_have, trouble)
        fruitless = 1 if now_have > have else fruitless + 1
        pause_s = backoff_s(
            fruitless, first_s=limits.first_wait_s, maximum_s=limits.longest_wait_s, draw=patience.jitter()
        )
        patience.wait(min(pause_s, limits.deadline_s - spent_s))
    return None


def _fetch(
    desired: DesiredState,
    source: BundleSource,
    store: BundleStore,
    *,
    patience: Patience,
    until_s: float,
    on_progress: Callable[[float], None],
) -> None:
    have = store.part_bytes(desired.bundle_sha256)
    offset = have if have < desired.bundle_bytes else 0  # a part that is too long is not ours
    with (
        source.bundle(desired.bundle_path, offset=offset) as stream,
        store.append(desired.bundle_sha256, offset=offset) as part,
    ):
        received = stream.offset
        for chunk in stream.chunks:
            # Who ignores the wish to resume sends again what is here: a road that breaks early takes nothing away.
            known = min(len(chunk), max(0, offset - received))
            received += len(chunk)
            if received > desired.bundle_bytes:
                raise ReleaseRefusedError(
                    f"the fleet sends more than the {desired.bundle_bytes} bytes it promised for {desired.release}"
                )
            part.write(chunk[known:])
            on_progress(received / desired.bundle_bytes)
            if patience.is_interrupted() or patience.now() >= until_s:
                return


def _worth_retrying(desired: DesiredState, store: BundleStore, error: FleetAnswerError) -> str:
    if error.status == 416:
        store.discard_part(desired.bundle_sha256)
    elif error.status not in {408, 429, 500, 502, 503, 504}:
        raise InstallFailedError(f"cannot fetch {desired.release}: {error}") from None
    return str(error)
