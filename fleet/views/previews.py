"""What a plan would reach, and what its gates would see, as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel

from fleet.gates.plan import Metric

__all__ = ["PowerLineView", "PowerView", "Preview", "PreviewGroup"]


class PreviewGroup(BaseModel):
    """A group as it would be drawn."""

    number: int
    name: str
    percentage: float | None
    count: int | None
    devices: list[str]


class PowerLineView(BaseModel):
    """Of a release with so much harm (`effect`: a factor, of some metrics a difference) the gates would stop a share from `low` to `high`.

    Within `minutes`, with `canaries` devices; `words` is the whole of it as a sentence.
    """

    metric: Metric
    effect: float
    low: float
    high: float
    canaries: int
    minutes: float
    words: str


class PowerView(BaseModel):
    """What the gates of a plan would see at its first group, foretold from the fleet's own past.

    `words` says it in sentences, or why nothing can be said; they also name groups that the gates do not judge.
    """

    lines: list[PowerLineView]
    words: list[str]


class Preview(BaseModel):
    """What a plan would reach, and what its gates would see. Create with `idempotency_key` to get exactly these groups."""

    idempotency_key: str
    release: str
    devices: int
    groups: list[PreviewGroup]
    already_running: list[str]
    power: PowerView
