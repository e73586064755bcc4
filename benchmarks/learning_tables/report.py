"""What a learning table is made of: rows of metrics per seed, written as JSON lines and as a table for people.

A `Row` is one way to learn or to detect; it holds each metric once per seed. It draws no conclusion: a bound that the
metric is held against stands beside it, and whoever reads decides. Error bars are standard errors over the seeds; a row
that has no randomness has one value per seed all the same, all equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np

__all__ = ["Bound", "Row", "json_lines", "text_table", "write_rows"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a metric is held against: a target, or the figure of a peer; `source` names which."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Args:
        name: what learned or detected, e.g. ``federated + personal, int8``.
        metrics: metric name → one value per seed; every metric has as many values.
        units: metric name → unit; a metric that is not named is a share between 0 and 1.
        bounds: metric name → what it is held against.
        note: what a reader must know to judge the row; one sentence.
        curves: a course over rounds or steps, one per seed; for plots alone.

    Raises:
        ValueError: no metric, metrics of different lengths, or a unit or bound of a metric that is not there.
    """

    name: str
    metrics: Mapping[str, Sequence[float]]
    units: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    note: str = ""
    curves: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        lengths = {metric: len(values) for metric, values in self.metrics.items()}
        if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"row {self.name!r} needs metrics with one value per seed each, got {lengths}")
        unknown = (set(self.units) | set(self.bounds)) - set(lengths)
        if unknown:
            raise ValueError(
                f"row {self.name!r} has a unit or a bound for {sorted(unknown)}, which it does not hold"
            )

    def mean(self, metric: str) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.metrics[metric]))

    def standard_error(self, metric: str) -> float:
        """Standard error of the mean over the seeds; 0 with a single seed, where nothing is known of it."""
        values = np.asarray(self.metrics[metric], np.float64)
        return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def json_lines(table: str, rows: Iterable[Row]) -> list[str]:
    """One JSON object per row and metric: name, value, standard_error, seeds, unit, bound and ratio where there is one."""
    lines = []
    for row in rows:
        for metric, values in row.metrics.items():
            figure: dict[str, object] = {
                "name": f"{table}: {row.name}: {metric}",
                "value": round(row.mean(metric), 4),
                "unit": row.units.get(metric, "share"),
                "standard_error": round(row.standard_error(metric), 4),
                "seeds": [round(float(value), 4) for value in values],
            }
            bound = row.bounds.get(metric)
            if bound is not None:
                figure |= {"bound": bound.value, "bound_source": bound.source}
                figure["ratio"] = round(row.mean(metric) / bound.value, 3)
            lines.append(json.dumps(figure, ensure_ascii=False))
    return lines


def text_table(title: str, rows: Sequence[Row]) -> str:
    """The rows as aligned text, a column per metric; ``±`` is the standard error, notes follow below."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    cells = [["", *metrics]]
    cells += [[row.name, *(_cell(row, metric) for metric in metrics)] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(metrics) + 1)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    notes = [f"  {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([title, "-" * len(title), *lines, *notes, ""])


def write_rows(table: str, rows: Sequence[Row], *, figures: TextIO, people: TextIO) -> None:
    """JSON lines to `figures`, the table to `people`."""
    figures.write("".join(f"{line}\n" for line in json_lines(table, rows)))
    figures.flush()
    people.write(text_table(table, rows) + "\n")
    people.flush()


def _cell(row: Row, metric: str) -> str:
    if metric not in row.metrics:
        return "-"
    value, error = row.mean(metric), row.standard_error(metric)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 20 else 3
    shown = f"{error:.{digits}f}"
    return f"{value:.{digits}f}" + (f" ±{shown}" if float(shown) else "")
