"""How good a detector is after a run, as one JSON object a figure, a table, and a plot.

**AP**: of each machine the average precision of its end against its quiet rows, the mean over machines. **recall**, **false alarms**: shares
of end and of quiet rows over the released threshold, before any debouncing, means over machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import reference_model
from poisoning_lab.fleets import Works

__all__ = ["Figure", "average_precision", "draw", "means", "network_quality", "quality", "table"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One run. `released` is False where it was stopped, by whom is in `why`; then the figures are the champion's, which goes on."""

    set: str
    detector: str
    devices: int
    poisoners: int
    attack: str
    layers: str
    seed: int
    ap: float
    recall: float
    false_alarms: float
    released: bool
    gate: str
    distance: float
    why: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()})


def average_precision(quiet: Floats, end: Floats) -> float:
    """Of scores; mean precision at each positive, in falling order of score.

    Ties are broken against the detector, and not one threshold as in `detection_tables.ranking`: a poisoned model may give
    all rows one score, which is no detection.
    """
    scores, labels = np.concatenate([quiet, end]), np.repeat([0, 1], [len(quiet), len(end)])
    order = np.lexsort((labels, -scores))
    hits = labels[order]
    return float((np.cumsum(hits)[hits == 1] / (np.flatnonzero(hits) + 1)).mean())


def quality(
    scores: Sequence[tuple[Floats, Floats]], thresholds: Sequence[float]
) -> tuple[float, float, float]:
    """(AP, recall, false alarms) of machines' scores of quiet rows and of end rows."""
    pairs = list(zip(scores, thresholds, strict=True))
    return (
        float(np.mean([average_precision(quiet, end) for quiet, end in scores])),
        float(np.mean([np.mean(end > threshold) for (_, end), threshold in pairs])),
        float(np.mean([np.mean(quiet > threshold) for (quiet, _), threshold in pairs])),
    )


def network_quality(works: Works, parameters: Floats, threshold: float) -> tuple[float, float, float]:
    """`quality` of a network with these parameters (P,) on all machines; a score that is no number is 0."""
    scores = []
    with np.errstate(all="ignore"):
        for machine in works.machines:
            quiet, end = (
                np.nan_to_num(reference_model.infer(works.architecture, parameters, rows)[1], nan=0.0)
                for rows in (machine.quiet, machine.end)
            )
            scores.append((quiet, end))
    return quality(scores, [threshold] * len(scores))


Key = tuple[str, str, int, int, str, str]


def means(figures: Iterable[Figure]) -> dict[Key, dict[str, float]]:
    """Over seeds."""
    found: dict[Key, list[Figure]] = {}
    for one in figures:
        key = (one.set, one.detector, one.devices, one.poisoners, one.attack, one.layers)
        found.setdefault(key, []).append(one)
    return {
        key: {
            "ap": float(np.mean([one.ap for one in runs])),
            "recall": float(np.mean([one.recall for one in runs])),
            "false_alarms": float(np.mean([one.false_alarms for one in runs])),
            "released": float(np.mean([one.released for one in runs])),
            "passed": float(np.mean([not one.gate for one in runs])),
        }
        for key, runs in found.items()
    }


def table(figures: Sequence[Figure], layers: Sequence[str]) -> str:
    """Markdown: a row an attack, a column a set of layers; AP/recall, and how many of the runs were stopped."""
    found = means(figures)
    rows = dict.fromkeys(key[:5] for key in found)
    lines = [
        "| devices, poisoners | attack | " + " | ".join(layers) + " |",
        "|---|---|" + "---|" * len(layers),
    ]
    for name, detector, devices, poisoners, attack in rows:
        cells = []
        for layer in layers:
            mean = found.get((name, detector, devices, poisoners, attack, layer))
            cells.append("" if mean is None else _cell(mean))
        lines.append(f"| {devices}, {poisoners} | {attack} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(mean: Mapping[str, float]) -> str:
    stopped = 1.0 - mean["released"]
    if stopped > 0.99:
        return "stopped"
    return f"{mean['ap']:.3f}/{mean['recall']:.2f}" + (f" ({stopped:.0%} stopped)" if stopped else "")


_COLOURS: Final = ("#a03020", "#d09030", "#70a050", "#4878a8", "#303060", "#808080")


def draw(figures: Sequence[Figure], layers: Sequence[str], path: Path) -> None:
    """AP (bars) and recall (dots) under each attack, a panel a fleet, a colour a set of layers; the line is the AP of the clean run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = means(figures)
    fleets = list(dict.fromkeys(key[2:4] for key in found if key[3]))
    axes: Any
    figure, axes = plt.subplots(len(fleets), 1, figsize=(9, 2.6 * len(fleets)), sharex=True, squeeze=False)
    for axis, (devices, poisoners) in zip(axes[:, 0], fleets, strict=True):
        here = {key[4:]: mean for key, mean in found.items() if key[2:4] == (devices, poisoners)}
        attacks = list(dict.fromkeys(attack for attack, _ in here))
        for place, layer in enumerate(layers):
            at = [(i, here[attack, layer]) for i, attack in enumerate(attacks) if (attack, layer) in here]
            shift = 0.8 * (place + 0.5) / len(layers) - 0.4
            axis.bar(
                [i + shift for i, _ in at],
                [mean["ap"] for _, mean in at],
                width=0.8 / len(layers),
                color=_COLOURS[place % len(_COLOURS)],
                label=layer,
            )
            recalls = [mean["recall"] for _, mean in at]
            axis.plot([i + shift for i, _ in at], recalls, "o", color="black", markersize=3)
            for i, mean in at:
                if mean["released"] < 0.5:
                    axis.text(i + shift, 0.1, "stopped", rotation=90, ha="center", fontsize=6, color="white")
        clean = [mean["ap"] for key, mean in found.items() if key[2] == devices and key[4] == "none"]
        axis.axhline(max(clean, default=0.0), color="grey", linewidth=0.8)
        axis.set_title(f"{poisoners} of {devices} devices poison", fontsize=9, loc="left")
        axis.set_ylabel("AP, and recall as dots", fontsize=8)
        axis.set_ylim(0, 1)
        axis.set_xticks(range(len(attacks)), attacks, rotation=20, ha="right", fontsize=7)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, ncols=len(names), loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=130)
    plt.close(figure)
