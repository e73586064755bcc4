"""Counts in time as bars that stand on each other: how many of which kind came in each period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fleet.dashboard.charts.marks import chart, element, grid, labels
from fleet.dashboard.charts.scale import Scale, brief, time_ticks

__all__ = ["Bar", "draw_bars"]

TOP, FOOT = 10, 18


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The counts of [start, until), Unix seconds: how many of each kind, from the foot upwards."""

    start: float
    until: float
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(self.counts.values())


def draw_bars(
    bars: Sequence[Bar],
    *,
    start: float,
    until: float,
    title: str,
    words: Mapping[str, str],
    height: int = 120,
) -> Markup:
    """A chart of `bars` over [start, until]; `words` says what each kind is, and a kind is a class of the style sheet."""
    along = Scale(low=start, high=max(until, start + 1))
    # the highest bar reaches the top, and one is never the whole chart
    upright = Scale(low=0.0, high=float(max([4, *(bar.total for bar in bars)])))
    inside = height - TOP - FOOT
    drawn = Markup("")
    for bar in bars:
        left, right = along.place(bar.start), along.place(bar.until)
        said = ", ".join(f"{count} {words[kind]}" for kind, count in bar.counts.items())
        foot = 0
        for kind, count in bar.counts.items():
            if not count:
                continue
            high, low = upright.place(foot + count), upright.place(foot)
            foot += count
            drawn += element(
                "rect",
                element("title", said),
                class_=f"pile {kind}",
                x=f"{100 * left:.4g}%",
                width=f"{max(100 * (right - left) - 0.2, 0.2):.4g}%",
                y=TOP + inside * (1 - high),
                height=inside * (high - low),
            )
    sums = {kind: sum(bar.counts.get(kind, 0) for bar in bars) for kind in words}
    return chart(
        grid([tick for tick in upright.ticks(2) if tick.place], top=TOP, height=inside),
        drawn,
        labels(time_ticks(start, until), y=height - 4),
        title=title,
        description=", ".join(f"{brief(count)} {words[kind]}" for kind, count in sums.items()),
        height=height,
    )
