"""A gate's interval against its limit: how much harm can still be, beside none, and beside what matters.

Every metric is drawn on one axis, in units of the harm that matters to it: 0 is what devices without the release show, 1 the
harm that a release must be shown not to do. So gates of different units stand under each other, and are read alike:

    · · · · ·|──●──|· · · · · ┆ · · · · · ·      the whole interval before 1: excluded
    better   0                1        worse
             none             limit
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fleet.dashboard.charts.marks import chart, element
from fleet.dashboard.charts.scale import Scale

__all__ = ["Shown", "draw_axis", "draw_interval", "draw_looks"]

AXIS: Final = Scale(low=-1.5, high=3.0)
ROW, MIDDLE, FOOT = 30, 15, 16
NONE, LIMIT = 0.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An interval in units of the harm that matters; an end may be infinite, `middle` unknown (NaN). `tone` is a class of the style sheet.

    `stop`: how much harm is forgiven before a release is stopped, in the same units; None: that is not asked.
    """

    low: float
    middle: float
    high: float
    tone: str
    stop: float | None = None


def draw_interval(shown: Shown | None, *, title: str, description: str) -> Markup:
    """One gate; None where nothing can be drawn: the axis alone."""
    parts = [_band(), _upright(NONE, "none"), _upright(LIMIT, "limit")]
    if shown is not None:
        if shown.stop is not None:
            parts.append(_upright(shown.stop, "stop"))
        parts += _interval(shown)
    return chart(*parts, title=title, description=description, height=ROW)


def draw_axis() -> Markup:
    """What the uprights of the intervals below mean."""
    names = ((NONE, "as without", "middle"), (LIMIT, "harm that matters", "start"))
    texts = [
        element("text", text, class_="tick", x=_at(place), y=12, text_anchor=anchor)
        for place, text, anchor in names
    ]
    texts.append(element("text", "better", class_="tick spare", x="0%", y=12))
    return chart(
        *texts,
        title="axis",
        description="left of none is better than devices without the release, right of the limit is harm that matters",
        height=FOOT,
    )


def draw_looks(looks: Sequence[tuple[str, Shown | None]], *, title: str, description: str) -> Markup:
    """How one gate's interval shrank from look to look: each named, from the first to the last."""
    height = 96
    step = 1 / max(len(looks), 1)

    def y(value: float) -> float:
        return 4 + (height - FOOT - 8) * (1 - AXIS.place(value))

    parts = [
        element("rect", class_="harm", x="0%", width="100%", y=0, height=y(LIMIT)),
        element("line", class_="rule none", x1="0%", x2="100%", y1=y(NONE), y2=y(NONE)),
        element("line", class_="rule limit", x1="0%", x2="100%", y1=y(LIMIT), y2=y(LIMIT)),
    ]
    for number, (name, shown) in enumerate(looks):
        x = f"{100 * step * (number + 0.5):.4g}%"
        parts.append(element("text", name, class_="tick", x=x, y=height - 4, text_anchor="middle"))
        if shown is None:
            parts.append(element("text", "?", class_="tick", x=x, y=y(NONE) + 4, text_anchor="middle"))
            continue
        parts.append(
            element("line", class_=f"reach {shown.tone}", x1=x, x2=x, y1=y(shown.low), y2=y(shown.high))
        )
        if math.isfinite(shown.middle):
            parts.append(element("circle", class_=f"dot {shown.tone}", cx=x, cy=y(shown.middle), r=3.5))
    return chart(*parts, title=title, description=description, height=height)


def _interval(shown: Shown) -> list[Markup]:
    parts = [
        element(
            "line", class_=f"reach {shown.tone}", x1=_at(shown.low), x2=_at(shown.high), y1=MIDDLE, y2=MIDDLE
        )
    ]
    for end, mark in ((shown.low, "‹"), (shown.high, "›")):
        if AXIS.low <= end <= AXIS.high:
            x = _at(end)
            parts.append(
                element("line", class_=f"reach {shown.tone}", x1=x, x2=x, y1=MIDDLE - 5, y2=MIDDLE + 5)
            )
        else:  # it goes on beyond what is drawn
            anchor = "start" if end < 0 else "end"
            parts.append(
                element(
                    "text", mark, class_=f"beyond {shown.tone}", x=_at(end), y=MIDDLE + 5, text_anchor=anchor
                )
            )
    if math.isfinite(shown.middle):
        parts.append(element("circle", class_=f"dot {shown.tone}", cx=_at(shown.middle), cy=MIDDLE, r=4.5))
    return parts


def _band() -> Markup:
    place = AXIS.place(LIMIT)
    return element(
        "rect", class_="harm", x=f"{100 * place:.4g}%", width=f"{100 * (1 - place):.4g}%", y=0, height=ROW
    )


def _upright(value: float, kind: str) -> Markup:
    x = _at(value)
    return element("line", class_=f"rule {kind}", x1=x, x2=x, y1=0, y2=ROW)


def _at(value: float) -> str:
    return f"{100 * AXIS.place(value):.4g}%"
