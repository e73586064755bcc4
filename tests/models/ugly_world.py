"""Files as people have them, of many kinds, each made with what it says: the truth that a reader must find, ask about, or refuse.

`KINDS` is a table of makers; each writes into a folder and returns a `Case`. Random numbers come from the caller, so that a fuzz may draw
as many of each kind as it likes. Everything a maker writes by hand is written here, not by the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

__all__ = [
    "KINDS",
    "START",
    "Case",
    "Truth",
    "World",
    "answered",
    "kind",
    "outcome",
    "rows_of",
    "table",
    "text",
    "two_pumps",
]

START = datetime(2026, 2, 10, 8, 30, tzinfo=UTC)


@dataclass(kw_only=True)
class Truth:
    """What a file says: for each machine rows (n, sensors), and where it says so times, labels, the rate."""

    sensors: Sequence[str]
    machines: dict[str, np.ndarray]
    times: dict[str, np.ndarray] | None = None
    labels: dict[str, np.ndarray] | None = None
    rate: float | None = None


@dataclass(kw_only=True)
class Case:
    """A file or folder, and what a reader must do: "understood", "asked" (then, with `answers`, understood) or "refused"."""

    path: Path
    must: str
    truth: Truth | None = None
    answers: dict[str, str] = field(default_factory=dict)
    says: str = ""
    given: dict[str, str] = field(default_factory=dict)


Maker = Callable[[Path, np.random.Generator], Case]
KINDS: dict[str, Maker] = {}


def kind(maker: Maker) -> Maker:
    KINDS[maker.__name__] = maker
    return maker


class World:
    """One machine's sensors as a file would have them: rounded to what is written."""

    def __init__(
        self,
        rng: np.random.Generator,
        count: int = 0,
        step_s: float = 1.0,
        decimals: Sequence[int] = (2, 3, 4),
    ) -> None:
        self.n = count or int(rng.integers(60, 300))
        self.step = step_s
        self.decimals = decimals
        t = np.arange(self.n)
        self.names = ["temp", "pressure", "vibration"]
        raw = [
            60 + 8 * np.sin(t / 23) + rng.normal(0, 0.8, self.n),
            1.5 + 0.2 * np.cos(t / 11) + rng.normal(0, 0.05, self.n),
            0.05 + np.abs(rng.normal(0, 0.03, self.n)),
        ]
        self.rows = np.stack([np.round(c, d) for c, d in zip(raw, decimals, strict=True)], axis=1)
        self.when = [START + timedelta(seconds=step_s * k) for k in range(self.n)]
        self.times = np.array([w.timestamp() for w in self.when])

    def cells(self, decimal: str = ".") -> list[list[str]]:
        return [
            [f"{v:.{d}f}".replace(".", decimal) for v, d in zip(row, self.decimals, strict=True)]
            for row in self.rows
        ]

    def stamps(self, form: str = "%Y-%m-%d %H:%M:%S") -> list[str]:
        return [w.strftime(form) for w in self.when]

    def truth(self, name: str = "x", *, rate: bool = True, times: bool = True, **more: object) -> Truth:
        return Truth(
            sensors=self.names,
            machines={name: self.rows},
            times={name: self.times} if times else None,
            rate=1 / self.step if rate else None,
            **more,  # type: ignore[arg-type]  # labels
        )


def text(
    folder: Path,
    lines: Sequence[str],
    *,
    name: str = "x.csv",
    end: str = "\n",
    encoding: str = "utf-8",
    last: bool = True,
) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + (end if last else "")).encode(encoding))
    return path


def table(
    w: World,
    delimiter: str = ",",
    decimal: str = ".",
    form: str = "%Y-%m-%d %H:%M:%S",
    header: Sequence[str] | None = None,
) -> list[str]:
    head = delimiter.join(header or ["time", *w.names])
    return [head, *(delimiter.join([s, *c]) for s, c in zip(w.stamps(form), w.cells(decimal), strict=True))]


def two_pumps(rng, count=120):
    a, b = World(rng, count), World(rng, count)
    truth = Truth(
        sensors=a.names,
        machines={"pump-1": a.rows, "pump-2": b.rows},
        times={"pump-1": a.times, "pump-2": b.times},
        rate=1.0,
    )
    return a, b, truth


def rows_of(head: Sequence[str], *columns: Sequence[object], delimiter: str = ",") -> list[str]:
    return [delimiter.join(head), *(delimiter.join(map(str, row)) for row in zip(*columns, strict=True))]


def outcome(case: Case) -> str:
    """ "understood", "asked: …", "refused: …", or "misread: …", which no reader may ever do."""
    from models.errors import RecordingError
    from models.recordings.reading import QuestionsOpen, read_machines

    try:
        reading = read_machines([case.path], answers=case.given)
    except QuestionsOpen as error:
        if any(str(q.path) not in str(q) or not q.allowed for q in error.questions):
            return f"misread: a question without a place or answers: {error}"
        return f"asked: {error}"
    except RecordingError as error:
        if "\n" in str(error) or str(case.path) not in str(error):
            return f"misread: a refusal without the file, or of many lines: {error}"
        return f"refused: {error}"
    return difference(reading, case.truth) or "understood"


def answered(case: Case) -> str:
    """The outcome once the questions are answered; then again with what the reading says was settled, which must ask nothing."""
    from models.recordings.reading import read_machines

    reading = read_machines([case.path], answers=case.given | case.answers)
    again = read_machines([case.path], answers=reading.answers)
    return difference(reading, case.truth) or difference(again, case.truth) or "understood"


def difference(reading, truth: Truth | None) -> str:
    """What is read otherwise than it is written, "" for nothing."""
    if truth is None:
        return f"misread: it was read, as {reading.sensors}, and should have been asked about or refused"
    found = {m.name: m for m in reading.machines}
    if list(reading.sensors) != list(truth.sensors) or set(found) != set(truth.machines):
        return f"misread: {reading.sensors} of {sorted(found)} instead of {truth.sensors} of {sorted(truth.machines)}"
    for name in truth.machines:
        if said := _difference_of_machine(found[name], truth, name):
            return f"misread: {said}"
    if truth.rate is not None and (
        reading.sample_rate_hz is None or abs(reading.sample_rate_hz / truth.rate - 1) > 1e-3
    ):
        return f"misread: {reading.sample_rate_hz} rows a second instead of {truth.rate}"
    return ""


def _difference_of_machine(machine, truth: Truth, name: str) -> str:
    rows = truth.machines[name]
    if machine.rows.shape != rows.shape:
        return f"{machine.rows.shape} rows of {name} instead of {rows.shape}"
    is_near = np.isclose(machine.rows, rows, rtol=1e-5, atol=1e-6, equal_nan=True)
    if not is_near.all():
        at = tuple(np.argwhere(~is_near)[0])
        return f"{machine.rows[at]} instead of {rows[at]} at {at}"
    times = machine.times_s
    if truth.times is not None and (times is None or np.abs(times - truth.times[name]).max() > 2e-3):
        return f"times {None if times is None else times[:3]} instead of {truth.times[name][:3]}"
    if truth.labels is not None and (
        machine.labels is None or not np.array_equal(machine.labels, truth.labels[name])
    ):
        return f"labels of {name}"
    return "labels where there are none" if truth.labels is None and machine.labels is not None else ""
