"""A whole and its parts, as one bar: how many devices stand where."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fleet.dashboard.charts.marks import chart, element

__all__ = ["Part", "draw_parts"]

HEIGHT = 12

Part = tuple[int, str, str]
"""How many, class of the style sheet, and what they are."""


def draw_parts(parts: Sequence[Part], *, title: str) -> Markup:
    """The bar; parts of nothing are left out."""
    whole = sum(count for count, _, _ in parts)
    drawn, begun = Markup(""), 0
    for count, tone, words in parts:
        if not count:
            continue
        drawn += element(
            "rect",
            element("title", f"{count:,} {words}"),
            class_=f"part {tone}",
            x=f"{100 * begun / whole:.4g}%",
            width=f"{100 * count / whole:.4g}%",
            y=0,
            height=HEIGHT,
        )
        begun += count
    told = ", ".join(f"{count:,} {words}" for count, _, words in parts if count) or "nothing"
    return chart(drawn, title=title, description=told, height=HEIGHT)
