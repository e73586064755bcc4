"""Plots of the learning tables: one SVG a table, drawn by the table's own `draw` on axes that are made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from learning_tables.report import Row

__all__ = ["draw_bars", "draw_plane", "save_plot"]

_MARKERS = "osD^v"

Axes = Any
"""`matplotlib.axes.Axes`, which brings no types."""


def save_plot(
    table: str, rows: Sequence[Row], draw: Callable[[Sequence[Row], Axes], None], folder: Path
) -> Path:
    """Draw one table's rows into ``folder/learning-<table>.svg``; the same rows give the same bytes."""
    # Only here: importing pyplot takes half a second that a run without plots need not pay.
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": table, "font.size": 9}):
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        axes.set_title(table)
        draw(rows, axes)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"learning-{table}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def draw_bars(rows: Sequence[Row], axes: Axes, metric: str, *, target: float | None = None) -> None:
    """A horizontal bar per row that holds `metric`, with standard errors; the target is a dashed line."""
    chosen = [row for row in rows if metric in row.metrics][::-1]
    axes.barh(
        [row.name for row in chosen],
        [row.mean(metric) for row in chosen],
        xerr=[row.standard_error(metric) for row in chosen],
        color="#4878a8",
    )
    axes.set_xlabel(metric)
    if target is not None:
        axes.axvline(target, linestyle="--", color="#a03020")


def draw_plane(rows: Sequence[Row], axes: Axes, across: str, up: str) -> None:
    """Each row a numbered point with error bars in the plane of two metrics; the names stand beside the axes."""
    chosen = [row for row in rows if across in row.metrics and up in row.metrics]
    for number, row in enumerate(chosen, start=1):
        x, y = row.mean(across), row.mean(up)
        axes.errorbar(
            x,
            y,
            xerr=row.standard_error(across),
            yerr=row.standard_error(up),
            fmt=_MARKERS[number % len(_MARKERS)],
            capsize=2,
            label=f"{number} {row.name}",
        )
        axes.annotate(
            str(number), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7, annotation_clip=True
        )
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=6, frameon=False)
