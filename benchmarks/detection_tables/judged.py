"""The lines by which issue 10 is judged, each as value, bound, ratio and verdict; a line whose figures were not measured is left out.

A method is a way to share (`local`, `federated`, `mixed`, `pooled`) and a kind (`float`, `int8`), written ``mixed, int8``. A value over seeds is the mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from detection_tables.figures import PROMISES, Figure

__all__ = ["KINDS", "Line", "judge"]

KINDS: Final = ("float", "int8")
ALLOWED: Final = 0.01
FLOORS: Final = {("smd", "AP"): 0.515, ("smd", "AP, timed"): 0.575, ("cmapss", "AP"): 0.99}
KEPT_WHERE: Final = "within the horizon"
FEWEST_PROMISED: Final = 10.0
"""Promised openings from which on too few real ones are held against a method."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `value` must be at least `bound`, or at most, where `is_ceiling`; it decides without its `standard_error`."""

    set: str
    method: str
    judged: str
    value: float
    bound: float
    is_ceiling: bool = False
    standard_error: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.value <= self.bound if self.is_ceiling else self.value >= self.bound

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "judged": self.judged,
                "set": self.set,
                "method": self.method,
                "value": float(f"{self.value:.5g}"),
                "bound": float(f"{self.bound:.5g}"),
                "bound_is": "at most" if self.is_ceiling else "at least",
                "ratio": float(f"{self.value / self.bound:.4g}") if self.bound else None,
                "standard_error": None
                if self.standard_error is None
                else float(f"{self.standard_error:.2g}"),
                "pass": self.holds,
            },
            ensure_ascii=False,
        )


def judge(name: str, figures: Sequence[Figure]) -> list[Line]:
    """The lines of one set."""
    table = _Table(name, figures)
    lines: list[Line] = []
    for kind in KINDS:
        lines += _judge_sharing(table, kind)
        lines += _judge_promise(table, f"mixed, {kind}")
        lines += _judge_old_figures(table, f"mixed, {kind}")
    lines += [
        Line(
            set=name,
            method=f"{way}, int8",
            judged="int8 within .01 AP of float",
            value=value,
            bound=bound - ALLOWED,
        )
        for way in ("local", "federated", "mixed", "pooled")
        for value, bound in table.pairs((f"{way}, int8", "AP"), (f"{way}, float", "AP"))
    ]
    return lines


class _Table:
    """Means over seeds by method and metric."""

    def __init__(self, name: str, figures: Sequence[Figure]) -> None:
        self.name = name
        self._figures: dict[tuple[str, str], list[Figure]] = {}
        for figure in figures:
            if figure.value is not None:
                self._figures.setdefault((figure.method, figure.metric), []).append(figure)

    def mean(self, method: str, metric: str, detail: str | None = None) -> float | None:
        found = self._figures.get((method, metric), [])
        values = [f.value if detail is None else f.details[detail] for f in found]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        return float(np.mean(numbers)) if numbers else None

    def difference_error(self, metric: str, one: str, other: str) -> float | None:
        """Standard error over devices of the difference of two methods' means."""
        parts = [
            np.array([f.details["per_device"] for f in self._figures[method, metric]], np.float64).mean(
                axis=0
            )
            for method in (one, other)
            if all("per_device" in f.details for f in self._figures[method, metric])
        ]
        if len(parts) < 2 or len(parts[0]) < 2:
            return None
        return float(np.std(parts[0] - parts[1], ddof=1) / np.sqrt(len(parts[0])))

    def pairs(self, *keys: tuple[str, str]) -> Iterator[tuple[float, ...]]:
        """The means of all keys once, if all are there."""
        values = [self.mean(*key) for key in keys]
        known = [value for value in values if value is not None]
        if len(known) == len(keys):
            yield tuple(known)


def _judge_sharing(table: _Table, kind: str) -> Iterator[Line]:
    methods = [f"{way}, {kind}" for way in ("mixed", "local", "federated")]
    for metric, allowed in (("AP", ALLOWED), ("AP, timed", ALLOWED), ("events at 1 in 1000", 0.0)):
        for mixed, *others in table.pairs(*[(method, metric) for method in methods]):
            better = methods[1 + int(np.argmax(others))]
            yield Line(
                set=table.name,
                method=methods[0],
                judged=f"{metric}: mixed against the better of local and federated",
                value=mixed,
                bound=max(others) - allowed,
                standard_error=table.difference_error(metric, methods[0], better),
            )
    for (name, metric), floor in FLOORS.items():
        if name == table.name:
            for (value,) in table.pairs((methods[0], metric)):
                yield Line(set=name, method=methods[0], judged=f"{metric}: floor", value=value, bound=floor)


def _judge_promise(table: _Table, method: str) -> Iterator[Line]:
    for promise in PROMISES:
        r = 1000 * promise
        what, kept = f"promise kept, r = {r:g}", f"r = {r:g}, {KEPT_WHERE}"
        metric = f"openings, {kept}"
        for (rate,) in table.pairs((method, metric)):
            low = table.mean(method, metric, "lowest") or 0.0
            yield Line(
                set=table.name,
                method=method,
                judged=f"{what}: lower end of openings",
                value=low,
                bound=2 * r,
                is_ceiling=True,
            )
            if (table.mean(method, metric, "promised_openings") or 0.0) >= FEWEST_PROMISED:
                yield Line(
                    set=table.name, method=method, judged=f"{what}: not silent", value=rate, bound=r / 3
                )
        for (share,) in table.pairs((method, f"time in alarm, {kept}")):
            yield Line(
                set=table.name,
                method=method,
                judged=f"{what}: time in alarm",
                value=share,
                bound=5 * promise,
                is_ceiling=True,
            )


def _judge_old_figures(table: _Table, method: str) -> Iterator[Line]:
    """PRONOSTIA and SKAB not worse than before beyond their standard errors (docs/figures.md)."""
    before = {
        "pronostia": (("AUC", 0.953, False), ("false alarms", 0.049, True)),
        "skab": (("J", 0.637, False),),
    }
    for metric, bound, is_ceiling in before.get(table.name, ()):
        error = table.mean(method, metric, "standard_error") or 0.0
        for (value,) in table.pairs((method, metric)):
            yield Line(
                set=table.name,
                method=method,
                judged=f"{metric}: {bound:g} of before, give or take a standard error",
                value=value,
                bound=bound + error if is_ceiling else bound - error,
                is_ceiling=is_ceiling,
            )
