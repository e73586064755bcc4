"""What charts are put together from: elements of SVG, and marks at a place along the chart.

A chart is as wide as what it stands in and as high as it says: places along it are per cents, heights are pixels, and text
keeps its size on a phone. Paths know no per cents: they stand in a nested ``svg`` that is stretched (`stretched`).

Every text is escaped here, so that a name of a device is never markup; an attribute is a number or a word of ours, escaped too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from markupsafe import Markup, escape

from fleet.dashboard.charts.scale import Tick

__all__ = ["WIDTH", "chart", "dots", "element", "grid", "labels", "rules", "spans", "stretched"]

WIDTH: Final = 1000
"""Units of a stretched drawing: finer than any screen that a chart fills."""

Value = str | float | int
Span = tuple[float, float, str, str]
"""From and to (places in [0, 1]), class, and what it says when it is pointed at."""


def element(name: str, *children: Markup | str, **attributes: Value | None) -> Markup:
    """One element; ``class_`` is written class, ``data_x`` data-x; an attribute that is None is left out.

    >>> str(element("text", "<press>", class_="axis", x=1.25))
    '<text class="axis" x="1.25">&lt;press&gt;</text>'
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{told}>{inner}</{name}>" if inner else f"<{name}{told}/>")  # noqa: S704 - every part is escaped


def chart(*parts: Markup, title: str, description: str, height: int, **attributes: Value | None) -> Markup:
    """The whole drawing, with its name and what it shows in words for those who do not see it."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        class_="plot",
        role="img",
        aria_label=f"{title}. {description}",
        width="100%",
        height=height,
        **attributes,
    )


def stretched(*paths: Markup, top: float, height: float) -> Markup:
    """`paths`, which count x in [0, `WIDTH`] and y in pixels below `top`, as wide as the chart."""
    return element(
        "svg",
        *paths,
        x=0,
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 {WIDTH} {_text(height)}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def grid(ticks: Iterable[Tick], *, top: float, height: float) -> Markup:
    """A line across the chart at each tick of the upright axis, with its name upon it."""
    drawn = Markup("")
    for tick in ticks:
        y = top + height * (1 - tick.place)
        drawn += element("line", class_="grid", x1="0", x2="100%", y1=y, y2=y)
        drawn += element("text", tick.text, class_="tick", x=2, y=max(y - 3, 9))
    return drawn


def labels(ticks: Iterable[Tick], *, y: float) -> Markup:
    """Names along the foot of the chart; every other one is left out where it is narrow."""
    drawn = Markup("")
    for number, tick in enumerate(ticks):
        anchor = "start" if tick.place < 0.03 else "end" if tick.place > 0.97 else "middle"
        drawn += element(
            "text",
            tick.text,
            class_="tick" if number % 2 == 0 else "tick spare",
            x=_percent(tick.place),
            y=y,
            text_anchor=anchor,
        )
    return drawn


def rules(marks: Iterable[tuple[float, str, str]], *, top: float, height: float) -> Markup:
    """An upright line at each (place, class, words)."""
    drawn = Markup("")
    for place, kind, words in marks:
        x = _percent(place)
        drawn += element(
            "line", element("title", words), class_=f"rule {kind}", x1=x, x2=x, y1=top, y2=top + height
        )
    return drawn


def spans(marks: Iterable[Span], *, top: float, height: float) -> Markup:
    """A box for each span of the axis; a short one is still as wide as can be seen."""
    drawn = Markup("")
    for start, until, kind, words in marks:
        drawn += element(
            "rect",
            element("title", words),
            class_=f"span {kind}",
            x=_percent(start),
            width=_percent(max(until - start, 0.002)),
            y=top,
            height=height,
        )
    return drawn


def dots(marks: Iterable[tuple[float, float, str, str]]) -> Markup:
    """A dot at each (place, y in pixels, class, words)."""
    drawn = Markup("")
    for place, y, kind, words in marks:
        drawn += element(
            "circle", element("title", words), class_=f"dot {kind}", cx=_percent(place), cy=y, r=3
        )
    return drawn


def _percent(place: float) -> str:
    return f"{100 * place:.4g}%"


def _text(value: Value) -> Markup:
    return escape(f"{value:.5g}" if isinstance(value, float) else value)
