"""What the laboratory found: one JSON object a figure, tables in Markdown, and a plot."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gates_lab.play import INSTALL, OURS, Trial
from gates_lab.previews import Stated
from gates_lab.releases import BAD, EDGE, GOOD, HARMFUL
from gates_lab.rivals import RATIO_GATES

__all__ = [
    "Line",
    "detection_table",
    "draw",
    "judge_cells",
    "judge_passes",
    "judge_power",
    "stops_table",
    "table_of",
]

HARMLESS: Final = {GOOD.name, EDGE.name, "the same detector", "the same in float"}
FALSE_STOPS: Final = 0.05
FALSE_PASSES: Final = 0.07
STATED_CONTAINS: Final = 0.90
STATED_WIDTH: Final = 0.40
METHODS: Final = (OURS, *RATIO_GATES, INSTALL)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure; `bound` is the most it may be, or with `is_least` the least; None where nothing is demanded."""

    name: str
    value: float
    unit: str = "share"
    bound: float | None = None
    is_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it keeps its bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def to_json(self) -> str:
        """One line."""
        told: dict[str, Any] = {"name": self.name, "value": round(self.value, 4), "unit": self.unit}
        if self.bound is not None:
            told |= {"bound": self.bound, "ratio": round(self.value / self.bound, 3), "holds": self.holds}
        return json.dumps(told)


def judge_cells(trials: Iterable[Trial], *, unpromised: Collection[str] = ()) -> Iterator[Line]:
    """False stops and detections, with what is demanded of them; nothing is of the worlds that are `unpromised`."""
    for trial in trials:
        tally, name = (
            trial.tally,
            f"{trial.method}: {trial.world}, {trial.canaries} canaries, {trial.release}",
        )
        share = tally.stops / tally.rollouts
        if trial.method != OURS:
            yield Line(name=f"{name}, stopped", value=share)
        elif trial.release in HARMLESS:
            yield Line(
                name=f"{name}, false stops",
                value=share,
                bound=None if trial.world in unpromised else FALSE_STOPS,
            )
            yield Line(name=f"{name}, passed", value=tally.passed / tally.rollouts)
        else:
            soon = tally.stops_until(sum(at <= 300 for at in trial.look_s)) / tally.rollouts
            is_judged = trial.world == "real" and trial.canaries == 20
            least = (
                {"latency +15 %": 0.99, "anomaly rate x 2": 0.85}.get(trial.release) if is_judged else None
            )
            yield Line(name=f"{name}, stopped", value=share, bound=least, is_least=True)
            least = 0.99 if is_judged and trial.release == "blind: sight x .2" else None
            yield Line(name=f"{name}, stopped within 5 minutes", value=soon, bound=least, is_least=True)


def judge_passes(trials: Iterable[Trial]) -> Iterator[Line]:
    """Releases that are exactly as bad as the pass margin calls harmful, and passed; and what the metric that shows it said by itself."""
    asked = {release.name: release.asked for release in HARMFUL}
    for trial in trials:
        name = f"{trial.method}: {trial.world}, {trial.canaries} canaries, {trial.release}, false passes"
        bound = FALSE_PASSES if trial.method == OURS else None
        yield Line(name=name, value=trial.tally.passed / trial.tally.rollouts, bound=bound)
        excluded = trial.tally.excluded.get(str(asked[trial.release]), 0)
        yield Line(name=f"{name} of the metric alone", value=excluded / trial.tally.rollouts, bound=bound)


def judge_power(trials: Iterable[Trial], stated: Sequence[Stated]) -> Iterator[Line]:
    """How often what a preview states contains what was then stopped (by the metric it speaks of), and how much it leaves open."""
    asked = {release.name: release.asked for release in BAD}
    measured = {
        (trial.world, trial.canaries, asked.get(trial.release)): trial.tally.by.get(
            str(asked.get(trial.release)), 0
        )
        / trial.tally.rollouts
        for trial in trials
        if trial.method == OURS and asked.get(trial.release) is not None
    }
    held = [
        (one, measured[one.world, one.canaries, one.metric])
        for one in stated
        if (one.world, one.canaries, one.metric) in measured
    ]
    inner = [(one, power) for one, power in held if 0.05 < power < 0.95]
    for name, cells, least, most in (
        ("all cells", held, STATED_CONTAINS, STATED_WIDTH),
        ("cells with a power between 5 and 95 %", inner, None, None),
    ):
        if not cells:
            continue
        contained = [one.low <= power <= one.high for one, power in cells]
        width = sum(one.high - one.low for one, _ in cells) / len(cells)
        yield Line(name=f"stated power, {name}: fleets", value=len(cells), unit="intervals")
        yield Line(
            name=f"stated power, {name}: contains the measured one",
            value=sum(contained) / len(cells),
            bound=least,
            is_least=True,
        )
        yield Line(name=f"stated power, {name}: mean width", value=width, bound=most)
    for key, power in measured.items():
        mine = [one for one, _ in held if (one.world, one.canaries, one.metric) == key]
        if mine:
            world, canaries, metric = key
            low, high = sum(one.low for one in mine) / len(mine), sum(one.high for one in mine) / len(mine)
            name = f"stated power: {world}, {canaries} canaries, {metric}: measured; stated {low:.2f} to {high:.2f}"
            yield Line(name=name, value=power)


def stops_table(trials: Sequence[Trial], release: str = GOOD.name) -> str:
    """Shares of rollouts that were stopped though the release is good: a row a method and world, a column a size."""
    sizes = sorted({trial.canaries for trial in trials})
    rows = [f"| false stops, % | {' | '.join(map(str, sizes))} |", "|---" * (len(sizes) + 1) + "|"]
    for method in METHODS:
        for world in dict.fromkeys(trial.world for trial in trials):
            found = {
                t.canaries: t for t in trials if (t.method, t.world, t.release) == (method, world, release)
            }
            if found:
                cells = (_percent(found[size].tally.stops, found[size].tally.rollouts) for size in sizes)
                rows.append(f"| {method}, {world} | {' | '.join(cells)} |")
    return "\n".join(rows)


def detection_table(trials: Sequence[Trial], method: str = OURS) -> str:
    """Shares of bad releases stopped, and the median minute of it: a row a release, a column a world and size."""
    columns = [
        (w, n) for w in dict.fromkeys(t.world for t in trials) for n in sorted({t.canaries for t in trials})
    ]
    head = " | ".join(f"{world} {size}" for world, size in columns)
    rows = [f"| stopped, % @ median minute | {head} |", "|---" * (len(columns) + 1) + "|"]
    for release in BAD:
        found = {(t.world, t.canaries): t for t in trials if t.method == method and t.release == release.name}
        if found:
            rows.append(f"| {release.name} | {' | '.join(_stop(found[column]) for column in columns)} |")
    return "\n".join(rows)


def _stop(trial: Trial) -> str:
    tally = trial.tally
    share = _percent(tally.stops, tally.rollouts)
    if trial.method != OURS or not tally.stops:
        return share
    look = next(look for look in sorted(tally.stopped) if 2 * tally.stops_until(look) >= tally.stops)
    return f"{share} @ {trial.look_s[look - 1] / 60:.0f}"


def _percent(count: int, rollouts: int) -> str:
    share = 100 * count / rollouts
    return f"{share:.1f}" if 0 < share < 10 else f"{share:.0f}"


def draw(trials: Sequence[Trial], path: Path) -> None:
    """False stops above, detections below, a column a world; the same trials give the same bytes."""
    # Only here: importing pyplot takes half a second that a run without plots need not pay.
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    worlds = list(dict.fromkeys(trial.world for trial in trials))
    shown = (
        "latency +15 %",
        "anomaly rate x 2",
        "leak of 10 % an hour",
        "silent crash, one an hour",
        "blind: sight x .2",
    )
    colours = ("#1f5f8b", "#c0392b", "#d98c3f", "#7f7f7f", "#3f8f5f")
    with mpl.rc_context({"svg.hashsalt": "gates", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = plt.subplots(
            2, len(worlds), figsize=(10, 6), sharex=True, sharey="row", layout="constrained", squeeze=False
        )
        for column, world in enumerate(worlds):
            here = [trial for trial in trials if trial.world == world]
            top, bottom = axes[0][column], axes[1][column]
            top.set_title(world)
            for method, colour in zip(METHODS, colours, strict=False):
                _curve(
                    top, [t for t in here if t.method == method and t.release == GOOD.name], method, colour
                )
            top.axhline(5, linestyle="--", linewidth=0.8, color="black")
            for release, colour in zip(shown, colours, strict=True):
                _curve(
                    bottom, [t for t in here if t.method == OURS and t.release == release], release, colour
                )
            bottom.set_xscale("log")
            bottom.set_xticks([1, 2, 5, 20, 100], ["1", "2", "5", "20", "100"])
            bottom.minorticks_off()
            bottom.set_xlabel("canaries")
        axes[0][0].set_ylabel("good releases stopped, %")
        axes[1][0].set_ylabel("bad releases stopped within an hour, %\n(fleet.gates)")
        axes[0][0].legend(fontsize=7, frameon=False, loc="center")
        axes[1][0].legend(fontsize=7, frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _curve(axes: Any, trials: Sequence[Trial], label: str, colour: str) -> None:
    points = sorted((t.canaries, 100 * t.tally.stops / t.tally.rollouts) for t in trials)
    x, y = [x for x, _ in points], [y for _, y in points]
    # where two lie on each other, the dashes of the later one show both
    style = (0, (3, 2)) if len(axes.lines) else "-"
    axes.plot(x, y, marker="o", markersize=3, label=label, color=colour, linestyle=style)


def table_of(lines: Sequence[Line]) -> str:
    """Figures as they are: a row a line."""
    rows = ["| | value | bound |", "|---|---|---|"]
    for line in lines:
        bound = "" if line.bound is None else f"{'≥' if line.is_least else '≤'} {line.bound:g}"
        rows.append(f"| {line.name.removeprefix(OURS + ': ')} | {line.value:.3f} | {bound} |")
    return "\n".join(rows)
