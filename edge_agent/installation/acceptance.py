"""The rules of what may be installed on this device: pure, each raises with one clear line or returns.

They decide nothing about what happens next (`transitions`) and touch no file. `fit` rules take the signed manifest;
the others take the request, so that a hopeless one costs no download.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from edge_agent.errors import InstallFailedError, ReleaseRefusedError
from edge_agent.installation.journal import Journal
from edge_agent.word_order import FARTHEST_LEAP
from models.columns import describe_difference
from protocol.errors import TopicError
from protocol.limits import MAX_BUNDLE_BYTES
from protocol.manifest import FeatureSpec, Manifest
from protocol.messages.kinds import InstallStatus
from protocol.messages.payloads import DesiredState
from protocol.names import split_release_id

__all__ = ["LEARNT_BYTES", "Novelty", "Requirements", "check_fit", "check_request", "check_space", "novelty"]

RESERVE_BYTES: Final = 4 * 1024 * 1024
"""Disk space that installing never uses: the outbox and the journal must be able to write."""

LEARNT_BYTES: Final = 1024 * 1024
"""What a device writes down of a release when it commits it: detector and drift reference, the old beside the new, at 128 sensors."""


class Requirements(Struct, frozen=True, kw_only=True):
    """What this device can run.

    Attributes:
        family: the model family it is enrolled for.
        features: how its source's windows become features; None accepts the release's own description.
        maximum_bytes: largest bundle.
        reserve_bytes: disk space left alone, see `RESERVE_BYTES`.
    """

    family: str
    features: FeatureSpec | None = None
    maximum_bytes: int = MAX_BUNDLE_BYTES
    reserve_bytes: int = RESERVE_BYTES


class Novelty(StrEnum):
    """What a desired state is, compared with those seen before."""

    NEW = "new"
    RUNNING = "running"  # the installation under way is for exactly this
    ANSWERED = "answered"  # it ended; the same answer is given again
    LOST = "lost"  # it succeeded, but its bundle no longer runs: do it again
    STALE = "stale"  # older than one that was accepted: a replay
    FAR = "far"  # so far ahead that no fleet can have counted there: after it nothing would be new


def novelty(journal: Journal, desired: DesiredState) -> Novelty:
    """Compare a desired state with the journal.

    The counter decides, not the version: a rollback is old content under a new counter. Each is the fleet's word by its seal
    (`edge_agent.fleet_words`); an older one is a replay, or held back.
    """
    if journal.attempt is not None and journal.attempt.desired.asks_the_same(desired):
        return Novelty.RUNNING
    outcome = journal.outcome_of(desired.execution)
    if outcome is None or outcome.counter != desired.counter or outcome.release != desired.release:
        ahead = desired.counter - journal.highest_counter
        if ahead > FARTHEST_LEAP:
            return Novelty.FAR
        return Novelty.NEW if ahead > 0 else Novelty.STALE
    runs = journal.active is not None and journal.active.release == desired.release
    is_newest = desired.counter == journal.highest_counter and journal.attempt is None
    if outcome.status is InstallStatus.SUCCEEDED and is_newest and not runs:
        return Novelty.LOST
    return Novelty.ANSWERED


def check_request(desired: DesiredState, requirements: Requirements) -> None:
    """Refuse what can be seen to be hopeless before a byte is fetched.

    Raises:
        ReleaseRefusedError: another family, an unreadable release id, or a bundle that is too large.
    """
    try:
        family, _ = split_release_id(desired.release)
    except TopicError as error:
        raise ReleaseRefusedError(str(error)) from None
    if family != requirements.family:
        raise ReleaseRefusedError(
            f"release {desired.release} is of family {family!r}; this device runs family {requirements.family!r}"
        )
    if desired.bundle_bytes > requirements.maximum_bytes:
        raise ReleaseRefusedError(
            f"the bundle of {desired.release} has {desired.bundle_bytes} bytes; this device takes at most {requirements.maximum_bytes}"
        )


def check_space(needed_bytes: int, free_bytes: int, requirements: Requirements) -> None:
    """Refuse to fill the disk. A bundle is not unpacked; `needed_bytes` is what is missing of it, and what is learnt of it.

    Raises:
        InstallFailedError: the bundle would eat into the reserve; free space and ask again.
    """
    if needed_bytes + requirements.reserve_bytes > free_bytes:
        raise InstallFailedError(
            f"not enough disk space: the release needs {needed_bytes} bytes and {requirements.reserve_bytes} stay reserved, but {free_bytes} are free"
        )


def check_fit(manifest: Manifest, release: str, requirements: Requirements) -> None:
    """Refuse a signed release that is not the one asked for, or that this device's source cannot feed.

    Raises:
        ReleaseRefusedError: other release, other family, other features, or a model whose input width is another.
    """
    if manifest.release != release:
        raise ReleaseRefusedError(f"the bundle holds release {manifest.release}, but {release} was asked for")
    if manifest.family != requirements.family:
        raise ReleaseRefusedError(
            f"release {release} is of family {manifest.family!r}; this device runs family {requirements.family!r}"
        )
    width, named = manifest.model.feature_count, manifest.features.feature_count
    if width != named:
        raise ReleaseRefusedError(
            f"the model of {manifest.release} takes {width} inputs, but its manifest names {named} features"
        )
    if requirements.features is not None:
        difference = describe_difference(manifest.features, requirements.features)
        if difference:
            raise ReleaseRefusedError(
                f"{manifest.release} was made for other features than this device's source gives: {difference}"
            )
