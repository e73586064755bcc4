"""What context (`models.detection.context`) is worth on generated machines: figures of the product without and with it, and a table.

Beside the figures of `figures`: in which share of later healthy windows drift says that the machine is away, how often it reported, and on how
many machines a profile and regimes were found worth using.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from detection_tables.devices import Device
from detection_tables.figures import PROMISES, Figure, measure
from detection_tables.generated import MACHINES
from detection_tables.methods import Judge
from detection_tables.product import CONTEXTS, DetectorScorer
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.replay import fit_calibrated_reference

__all__ = ["measure_contexts", "table_of"]

ROWS_OF_A_REFERENCE = 4096
COLUMNS = (
    ("AP", "AP", 3),
    ("AP, timed", "AP, timed", 3),
    ("openings in 1,000", "openings, r = 1, within the horizon", 2),
    ("beyond the horizon", "openings, r = 1, beyond it", 2),
    ("events seen", "events seen", 0),
    ("away by drift", "away by drift", 3),
)


def measure_contexts(name: str, devices: Sequence[Device], seen: Sequence[Device]) -> Iterator[Figure]:
    """The figures of one world; `seen` are the devices without what no method may see."""
    for method in CONTEXTS:
        promised = method.fit(seen, 0)
        yield from measure(name, method, devices, promised, 0)
        away = windows = reports = profiles = regimes = 0
        for judge, device in zip(promised(PROMISES[0]), devices, strict=True):
            monitor, found = _watched(judge, device)
            away += found
            windows += len(device.later)
            reports += monitor.reports
            context = judge.scorer.seen.context if isinstance(judge.scorer, DetectorScorer) else None
            profiles += context is not None and context.profile is not None
            regimes += context is not None and context.regimes is not None
        details = {"reports": reports, "windows": windows, "profiles": profiles, "regimes": regimes}
        yield Figure(
            set=name, method=method.name, metric="away by drift", value=away / windows, details=details
        )


def _watched(judge: Judge, device: Device) -> tuple[DriftMonitor, int]:
    """The drift monitor after the later windows of a device, and in how many of them the machine was away."""
    scorer = judge.scorer
    assert isinstance(scorer, DetectorScorer)
    detector, seen = scorer.detector, scorer.seen
    per_typical = 1.0 / detector.form.typical**2
    newest = slice(-ROWS_OF_A_REFERENCE, None)
    settings = DriftSettings()
    monitor = DriftMonitor(
        fit_calibrated_reference(seen.rows[newest], detector.form.held_out[newest] * per_typical, settings),
        settings,
    )
    away = 0
    shown = seen.show(device.later, len(device.healthy))
    for row, score in zip(shown, detector.scores(shown)[0] * per_typical, strict=True):
        monitor.update(row, float(score))
        away += monitor.is_away
    return monitor, away


def table_of(figures: Sequence[Figure]) -> str:
    """Markdown: a line for each world, without / with context."""
    values: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        values.setdefault((figure.set, figure.method, figure.metric), []).append(figure)
    seeds = len({figure.seed for figure in figures})
    lines = ["| without / with | profile, regimes on | " + " | ".join(head for head, _, _ in COLUMNS) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS) + 2))
    without, with_context = (method.name for method in CONTEXTS)
    for name in dict.fromkeys(figure.set for figure in figures):
        found = [figure.details for figure in values[name, with_context, "away by drift"]]
        profiles, regimes = (sum(int(str(one[what])) for one in found) for what in ("profiles", "regimes"))
        cells = [name, f"{profiles}, {regimes} of {seeds * MACHINES}"]
        for _, metric, digits in COLUMNS:
            both = (values[name, method, metric] for method in (without, with_context))
            means = [np.mean([figure.value for figure in one if figure.value is not None]) for one in both]
            cells.append(" / ".join(f"{mean:.{digits}f}" for mean in means))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
