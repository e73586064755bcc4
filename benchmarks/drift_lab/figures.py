"""Figures of `benchmarks/drift.py`: delay against run length, a panel a change, and change points found on SKAB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")  # no display, and figures that diff

import matplotlib.pyplot as plt

from drift_lab.curves import LONGEST, Delay
from drift_lab.skab import Outcome

__all__ = ["draw_delays", "draw_skab"]

COLOURS = {"ours": "C3", "adwin": "C0", "page-hinkley": "C1", "kswin": "C2", "psi": "C7"}


def draw_delays(
    curves: Mapping[tuple[str, str], Sequence[tuple[float, Delay]]], title: str, path: Path
) -> None:
    """One panel a change: mean delay with its interval against ARL0, a line a detector.

    Args:
        curves: (change, detector) → (ARL0, delay) in ascending ARL0.
        title: of the whole figure.
        path: the SVG to write.
    """
    changes = list(dict.fromkeys(change for change, _ in curves))
    figure, panels = plt.subplots(2, (len(changes) + 1) // 2, figsize=(15, 7), sharex=True, sharey=True)
    for change, axes in zip(changes, panels.flat, strict=False):
        for (of, detector), points in curves.items():
            if of == change:
                axes.errorbar(
                    [run_length for run_length, _ in points],
                    [delay.mean for _, delay in points],
                    yerr=[delay.half_width for _, delay in points],
                    label=detector,
                    color=COLOURS[detector],
                    marker="o",
                    markersize=3,
                )
        axes.set(title=change, xscale="log", yscale="log", ylim=(2, 1.2 * LONGEST))
        axes.grid(visible=True, alpha=0.3)
    panels.flat[0].legend()
    figure.supxlabel("windows between false alarms (ARL0)")
    figure.supylabel(f"mean delay, windows (at most {LONGEST})")
    figure.suptitle(title)
    _save(figure, path)


def draw_skab(outcomes: Sequence[Outcome], path: Path) -> None:
    """Share of change points found against measured false alarms per hour."""
    figure, axes = plt.subplots(figsize=(7, 5))
    for detector in dict.fromkeys(outcome.detector for outcome in outcomes):
        points = sorted(
            (o.false_per_hour, o.found / o.change_points) for o in outcomes if o.detector == detector
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=detector, color=COLOURS[detector])
    axes.set(xlabel="false alarms per hour, measured", ylabel="share of change points found", ylim=(0, 1))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.suptitle("SKAB: change points found within 60 s")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
