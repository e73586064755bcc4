"""Whole rollouts: three groups one after the other, later ones judged with all devices that were given the release so far.

Both arms are compared over the same spans in every group: before the rollout began, and since the present group began and warmed up.
The last group leaves a share of devices without the release until its soak ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from fleet.gates.answers import Finding
from fleet.gates.arms import Arms, Shown
from fleet.gates.plan import GatePlan
from gates_lab.play import OURS, Setting, Tally, Trial, judge_looks
from gates_lab.releases import Release, give
from gates_lab.showing import gather, join, show
from gates_lab.worlds import BINS_PER_HOUR, World, draw_course

__all__ = ["DEVICES", "play_whole"]

DEVICES: Final = 400
GIVEN: Final = (20, 100, 380)
"""5 %, 25 % and all but twenty held out."""

CHUNK: Final = 5


def play_whole(
    world: World, releases: Sequence[Release], *, rollouts: int, seed: int, given: Sequence[int] = GIVEN
) -> Iterator[Trial]:
    """Each release, group after group; where nothing can be said the rollout goes on. `Tally.stopped` counts by group, from 1."""
    plan = GatePlan()
    settings = [Setting(plan=plan, group=group, groups=len(given)) for group in range(len(given))]
    baseline, warm_up = (
        int(plan.baseline_s * BINS_PER_HOUR / 3600),
        int(plan.warm_up_s * BINS_PER_HOUR / 3600),
    )
    span = warm_up + settings[0].looks[-1]
    tallies = [Tally() for _ in releases]
    for number in range(0, rollouts, CHUNK):
        chunk = min(CHUNK, rollouts - number)
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, number])))
        course = draw_course(
            world, rng, rollouts=chunk, devices=DEVICES, bins=baseline + len(given) * span, start=baseline
        )
        before = show(course, 0, baseline)
        names = [
            tuple(f"{seed}-{number + rollout}-{row}" for row in range(DEVICES)) for rollout in range(chunk)
        ]
        commits = span * np.searchsorted(np.array(given), np.arange(given[-1]), side="right")
        for release, tally in zip(releases, tallies, strict=True):
            treated = give(
                release,
                course.pick(slice(0, given[-1]), slice(baseline, None)),
                np.broadcast_to(commits, (chunk, given[-1])),
                rng,
            )
            held = course.pick(slice(given[-1], None), slice(baseline, None))
            looks = [
                [
                    join(
                        show(treated, begin, begin + look, counts_silence=True),
                        show(held, begin, begin + look, counts_silence=True),
                    )
                    for look in settings[group].looks
                ]
                for group in range(len(given))
                for begin in [group * span + warm_up]
            ]
            for rollout in range(chunk):
                _judge_groups(tally, settings, given, looks, before, names, rollout)
    for release, tally in zip(releases, tallies, strict=True):
        yield Trial(
            method=OURS,
            world=f"{world.name}, whole rollouts",
            release=release.name,
            canaries=GIVEN[0],
            tally=tally,
            look_s=(),
        )


def _judge_groups(
    tally: Tally,
    settings: Sequence[Setting],
    given: Sequence[int],
    looks: Sequence[Sequence[Shown]],
    before: Shown,
    names: Sequence[tuple[str, ...]],
    rollout: int,
) -> None:
    for group, (setting, count) in enumerate(zip(settings, given, strict=True)):
        arms = (
            Arms(
                devices=names[rollout],
                is_canary=np.arange(DEVICES) < count,
                stratum=np.zeros(DEVICES, np.int64),
                before=gather(before, rollout),
                after=gather(shown, rollout),
                placebos=None,
                hazard_events=float(before.restarts[rollout].sum()),
                hazard_hours=float(before.hours[rollout].sum()),
            )
            for shown in looks[group]
        )
        _, answer = judge_looks(arms, setting)
        is_stopped = answer.finding in {Finding.STOP, Finding.PAUSE}
        if is_stopped or group == len(given) - 1:
            # the group takes the place of the look
            tally.add(answer, at=group + 1)
            return
