"""What a look says: one answer a metric, and what follows from all of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from fleet.gates.plan import Metric

__all__ = ["Answer", "Finding", "LookAnswer"]


class Finding(StrEnum):
    """What can be said of a release by one metric, or by all."""

    STOP = "STOP"  # harm, beyond what chance explains
    PAUSE = "PAUSE"  # unusual, and it cannot be told whether by the release: a person decides
    PASS = "PASS"  # noqa: S105 - harm of the size that matters is excluded
    NOT_SEEN = "NOT_SEEN"  # neither


class Answer(Struct, frozen=True, kw_only=True):
    """One metric at one look. Stored and shown as it is.

    `effect`, `low`, `high`: the change of canaries against controls and its interval, as a ratio (1: none) or for sight a difference;
    None where nothing can be said. `p` and `level`: the one-sided p-value and what it had to be below; None where no test exists.
    `canaries`, `controls`: devices that had enough to show. `reason`: the whole of it in words.
    """

    metric: Metric
    finding: Finding
    reason: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    level: float | None = None
    canaries: Annotated[int, Meta(ge=0)] = 0
    controls: Annotated[int, Meta(ge=0)] = 0


class LookAnswer(Struct, frozen=True, kw_only=True):
    """All metrics at look `number` (from 1) of `of`; `is_last`: the soak is over, so PASS and NOT_SEEN count.

    `open`: at the end of a soak, the metrics for which harm is neither found nor excluded.
    """

    finding: Finding
    reason: str
    number: int
    of: int
    is_last: bool
    answers: tuple[Answer, ...]
    open: tuple[Metric, ...] = ()
