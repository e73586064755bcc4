"""Shares with their intervals over time: a dot where the share is, and how far chance alone may have moved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fleet.dashboard.charts.marks import chart, dots, element, grid, labels
from fleet.dashboard.charts.scale import Scale, Tick, time_ticks

__all__ = ["Share", "draw_shares"]

TOP, FOOT = 10, 18


@dataclass(frozen=True, kw_only=True)
class Share:
    """At `at` (Unix s) the share was `value`, and lies within [low, high]; all in [0, 1]."""

    at: float
    value: float
    low: float
    high: float
    words: str


def draw_shares(
    shares: Sequence[Share], *, start: float, until: float, title: str, height: int = 150
) -> Markup:
    """A chart of `shares` over [start, until], from none to all."""
    along = Scale(low=start, high=max(until, start + 1))
    inside = height - TOP - FOOT

    def y(share: float) -> float:
        return TOP + inside * (1 - min(max(share, 0.0), 1.0))

    reaches = Markup("")
    for one in shares:
        x = f"{100 * along.place(one.at):.4g}%"
        reaches += element("line", class_="reach", x1=x, x2=x, y1=y(one.low), y2=y(one.high))
    last = f", last {shares[-1].words}" if shares else ""
    ticks = [Tick(place=share, text=f"{100 * share:.0f} %") for share in (0.0, 0.5, 1.0)]
    return chart(
        grid(ticks, top=TOP, height=inside),
        reaches,
        dots([(along.place(one.at), y(one.value), "share", one.words) for one in shares]),
        labels(time_ticks(start, until), y=height - 4),
        title=title,
        description=f"{len(shares)} periods with verdicts{last}",
        height=height,
    )
