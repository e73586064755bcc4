"""One release in one world, many times: each look judged by `fleet.gates` through its entry points, beside the other gates.

A rollout here is one group: four hours of every device's past, the release given to canaries that were drawn by chance (all devices
of a world are exchangeable, so the first ones are), a warm-up, an hour of soak. Nothing is known to the gates but `Arms`.

    | history (canaries of one or two) | baseline | warm-up | soak: looks at 1/32, 1/16, 1/8, 1/4, 1/2, 1 |
                                                  ^ release
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fleet.gates.answers import Finding, LookAnswer
from fleet.gates.arms import Arms, Placebos, Shown
from fleet.gates.judge import judge_look
from fleet.gates.looks import extension_time, look_times
from fleet.gates.plan import GatePlan
from gates_lab.releases import Release, activate, give
from gates_lab.rivals import RATIO_GATES, Newest, ratio_stops
from gates_lab.showing import gather, join, show
from gates_lab.worlds import BINS_PER_HOUR, Course, Rng, World, draw_course

__all__ = ["CONTROLS", "INSTALL", "OURS", "Setting", "Tally", "Trial", "judge_looks", "play"]

CONTROLS: Final = 200
OURS: Final = "fleet.gates"
INSTALL: Final = "install success (hawkBit)"
CHUNK: Final = 10
"""Rollouts that are drawn at a time: 60 MB."""

Disturb = Callable[[Course, int, int, Rng], Course]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a rollout is done, and what else happens.

    `history_hours` are before the baseline, for placebos. `disturb` happens to the fleet before the release does anything: from the
    course, the bin in which the rollout begins and how many canaries there are at most, to another course. Device i is of stratum
    ``i mod strata``. Canaries commit at random within `spread_bins`. `extensions` looks follow the soak where nothing could be said. With
    `only_last` the end of the soak is the only look: what passes then is the most that can pass.
    """

    plan: GatePlan = field(default_factory=GatePlan)
    soak_s: float = 3600.0
    history_hours: int = 5
    group: int = 0
    groups: int = 3
    disturb: Disturb | None = None
    strata: int = 1
    spread_bins: int = 0
    extensions: int = 0
    only_last: bool = False

    @property
    def looks(self) -> tuple[int, ...]:
        """In bins since the warm-up ended, those after the soak too; whole messages only."""
        late = (extension_time(self.soak_s, number) for number in range(1, self.extensions + 1))
        return tuple(int(at * BINS_PER_HOUR / 3600) for at in (*look_times(self.soak_s), *late))


@dataclass(kw_only=True)
class Tally:
    """What became of the rollouts of a cell.

    `stopped` (and paused, as one that cannot be told from a release) counts by look, from 1; `by` names the metrics that did it,
    `excluded` those that excluded harm at the end of a soak.
    """

    rollouts: int = 0
    stopped: dict[int, int] = field(default_factory=dict)
    paused: int = 0
    passed: int = 0
    by: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def stops(self) -> int:
        """Rollouts that were stopped or paused by a test, at any look."""
        return sum(self.stopped.values())

    def add(self, last: LookAnswer, *, at: int) -> None:
        """One more rollout: the look that decided it, and which one that was."""
        self.rollouts += 1
        self.passed += last.finding is Finding.PASS
        for answer in last.answers:
            if answer.finding is Finding.PASS:
                self.excluded[answer.metric] = self.excluded.get(answer.metric, 0) + 1
        if last.finding in {Finding.STOP, Finding.PAUSE}:
            self.stopped[at] = self.stopped.get(at, 0) + 1
            self.paused += last.finding is Finding.PAUSE
            for answer in last.answers:
                if answer.finding is last.finding:
                    key = answer.metric if last.finding is Finding.STOP else f"{answer.metric}, paused"
                    self.by[key] = self.by.get(key, 0) + 1

    def add_other(self, *, is_stopped: bool) -> None:
        """One more rollout under a gate that stops or passes."""
        self.rollouts += 1
        self.passed += not is_stopped
        if is_stopped:
            self.stopped[1] = self.stopped.get(1, 0) + 1

    def merge(self, other: Tally) -> None:
        """The rollouts of both."""
        self.rollouts += other.rollouts
        self.paused += other.paused
        self.passed += other.passed
        for mine, theirs in (
            (self.stopped, other.stopped),
            (self.by, other.by),
            (self.excluded, other.excluded),
        ):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count  # type: ignore[index, call-overload] # both dicts, one loop

    def stops_until(self, look: int) -> int:
        """The same, up to a look."""
        return sum(count for at, count in self.stopped.items() if at <= look)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A cell: method, world, release, canaries; its tally, and after how many seconds of soak its looks were."""

    method: str
    world: str
    release: str
    canaries: int
    tally: Tally
    look_s: tuple[float, ...]


def play(
    world: World,
    releases: Sequence[Release],
    sizes: Sequence[int],
    *,
    rollouts: int,
    seed: int,
    setting: Setting | None = None,
    rivals: bool = True,
    label: str = "",
) -> Iterator[Trial]:
    """Every release with every size of canary in one world; the fleets are the same for all of them."""
    setting = setting or Setting()
    tallies: dict[tuple[str, str, int], Tally] = {}
    for chunk in range(0, rollouts, CHUNK):
        count = min(CHUNK, rollouts - chunk)
        for method, release, size, answers in _play_chunk(
            world, releases, sizes, count, np.random.SeedSequence([seed, chunk]), setting, rivals=rivals
        ):
            tally = tallies.setdefault((method, release, size), Tally())
            if isinstance(answers, bool):
                tally.add_other(is_stopped=answers)
            else:
                tally.add(answers[1], at=answers[0])
    for (method, release, size), tally in tallies.items():
        yield Trial(
            method=method,
            world=label or world.name,
            release=release,
            canaries=size,
            tally=tally,
            look_s=tuple(3600 * bins / BINS_PER_HOUR for bins in setting.looks),
        )


def _play_chunk(
    world: World,
    releases: Sequence[Release],
    sizes: Sequence[int],
    rollouts: int,
    seeds: np.random.SeedSequence,
    setting: Setting,
    *,
    rivals: bool,
) -> Iterator[tuple[str, str, int, tuple[int, LookAnswer] | bool]]:
    rng = np.random.Generator(np.random.SFC64(seeds))
    plan, most = setting.plan, max(sizes)
    baseline = int(plan.baseline_s * BINS_PER_HOUR / 3600)
    warm_up = int(plan.warm_up_s * BINS_PER_HOUR / 3600)
    history = setting.history_hours * BINS_PER_HOUR + warm_up if min(sizes) <= 2 else 0
    start = history + baseline
    course = draw_course(
        world,
        rng,
        rollouts=rollouts,
        devices=most + CONTROLS,
        bins=start + setting.spread_bins + warm_up + setting.looks[-1],
        start=start,
    )
    if setting.disturb is not None:
        course = setting.disturb(course, start, most, rng)
    before = show(course, start - baseline, start)
    past = show(course, 0, start)
    placebos = list(_placebos(course, start, baseline, warm_up, setting)) if history else None
    after = course.pick(slice(None), slice(start, None))
    controls = after.pick(slice(most, None))
    if plan.reactivate_controls:
        controls = activate(controls, np.zeros(controls.lag.shape, np.int64))
    commits = rng.integers(0, setting.spread_bins + 1, (rollouts, most))
    # the spans of controls begin in the middle of those of the canaries
    halfway = np.broadcast_to(
        np.median(commits, axis=1, keepdims=True).astype(np.int64), (rollouts, CONTROLS)
    )
    ends = [setting.spread_bins + warm_up + look for look in setting.looks]
    controls_shown = [show(controls, warm_up, end, halfway, counts_silence=True) for end in ends]
    rest = Newest.of(controls.pick(slice(None), slice(warm_up, None)))
    own = Newest.of(course.pick(slice(0, most), slice(start - baseline, start)))
    # another fleet has other names: by them a device's lot is drawn
    rows_of = {size: np.r_[0:size, most : most + CONTROLS] for size in sizes}
    names = {
        (rollout, size): tuple(f"{seeds.entropy}-{rollout}-{row}" for row in rows_of[size])
        for rollout in range(rollouts)
        for size in sizes
    }
    for release in releases:
        canaries = give(release, after.pick(slice(0, most)), commits, rng)
        canaries_shown = [show(canaries, warm_up, end, commits, counts_silence=True) for end in ends]
        joined = [join(a, b) for a, b in zip(canaries_shown, controls_shown, strict=True)]
        silent = canaries.heard.sum(axis=-1) < 3
        chosen = Newest.of(canaries.pick(slice(None), slice(warm_up, None))) if rivals else rest
        for size in sizes:
            rows = rows_of[size]
            for rollout in range(rollouts):
                arms = (
                    Arms(
                        devices=names[rollout, size],
                        is_canary=np.arange(len(rows)) < size,
                        stratum=rows % setting.strata,
                        before=gather(before, rollout, rows),
                        after=gather(shown, rollout, rows),
                        placebos=_of_rollout(placebos[number], rollout, rows)
                        if placebos and size <= 2
                        else None,
                        hazard_events=float(past.restarts[rollout].sum()),
                        hazard_hours=float(past.hours[rollout].sum()),
                    )
                    for number, shown in enumerate(joined)
                )
                yield OURS, release.name, size, judge_looks(arms, setting)
            if rivals:
                for name, gates in RATIO_GATES.items():
                    for stop in ratio_stops(chosen, rest, own, gates, size, silent):
                        yield name, release.name, size, bool(stop)
                for _ in range(rollouts):
                    yield INSTALL, release.name, size, False


def judge_looks(looks: Iterable[Arms], setting: Setting) -> tuple[int, LookAnswer]:
    """The look, counted from 1, that decided a group, and its answer; the last one where none did."""
    of = len(setting.looks) - setting.extensions
    at, answer = 0, None
    for at, arms in enumerate(looks, start=1):
        if setting.only_last and at < of:
            continue
        answer = judge_look(
            arms,
            setting.plan,
            group=setting.group,
            groups=setting.groups,
            number=min(at, of),
            of=of,
            is_last=at >= of,
            extension=max(0, at - of),
        )
        if answer.finding is not Finding.NOT_SEEN:
            break
    if answer is None:
        raise ValueError("a group without a look decides nothing")
    return at, answer


Past = list[tuple[Shown, Shown]]


def _placebos(course: Course, start: int, baseline: int, warm_up: int, setting: Setting) -> Iterator[Past]:
    """For each look, what all devices showed before and after pretended starts, one for each hour of the history."""
    starts = [start - warm_up - BINS_PER_HOUR * hour for hour in range(1, setting.history_hours + 1)]
    befores = [show(course, begin - baseline, begin) for begin in starts]
    for look in setting.looks:
        afters = [show(course, begin + warm_up, begin + warm_up + look) for begin in starts]
        yield list(zip(befores, afters, strict=True))


def _of_rollout(past: Past, rollout: int, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Placebos:
    before, after = gather(past[0][0], rollout, rows), gather(past[0][1], rollout, rows)
    for earlier, later in past[1:]:
        before, after = (
            join(before, gather(earlier, rollout, rows)),
            join(after, gather(later, rollout, rows)),
        )
    return Placebos(block=np.repeat(np.arange(len(past)), len(rows)), before=before, after=after)
