"""What a preview states of a plan's power, from the past of fleets in the three worlds, to be held against what the gates then see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fleet.gates.arms import Arms
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.power import power
from gates_lab.play import CONTROLS, Setting
from gates_lab.showing import gather, show
from gates_lab.worlds import BINS_PER_HOUR, World, draw_course

__all__ = ["Stated", "state_power"]


@dataclass(frozen=True, kw_only=True)
class Stated:
    """An interval that one fleet of a world was told for one metric."""

    world: str
    canaries: int
    metric: Metric
    low: float
    high: float


def state_power(world: World, sizes: Sequence[int], *, fleets: int, seed: int) -> Iterator[Stated]:
    """The lines of previews of `fleets` fleets, each of as many canaries and 200 more devices; nothing but its past is looked at."""
    plan, setting = GatePlan(), Setting()
    baseline = int(plan.baseline_s * BINS_PER_HOUR / 3600)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, 1])))
    bins = baseline + setting.looks[-1]
    most = max(sizes)
    course = draw_course(world, rng, rollouts=fleets, devices=most + CONTROLS, bins=bins, start=bins)
    before, after = show(course, 0, baseline), show(course, baseline, bins)
    for size in sizes:
        rows = np.r_[0:size, most : most + CONTROLS]
        for fleet in range(fleets):
            arms = Arms(
                devices=tuple(f"{seed}-{fleet}-{row}" for row in rows),
                is_canary=np.zeros(len(rows), np.bool_),
                stratum=np.zeros(len(rows), np.int64),
                before=gather(before, fleet, rows),
                after=gather(after, fleet, rows),
                placebos=None,
                hazard_events=float(before.restarts[fleet].sum()),
                hazard_hours=float(before.hours[fleet].sum()),
            )
            lines = power(
                arms, plan, canaries=size, soak_s=setting.soak_s, group=0, groups=setting.groups, seed=seed
            )
            for line in lines:
                yield Stated(
                    world=world.name, canaries=size, metric=line.metric, low=line.low, high=line.high
                )
