"""Folders of recordings for tests of the study: four machines alike and not the same, each with a clock, one with a fault."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SENSORS = ("pressure", "flow", "current", "temperature", "vibration", "speed")
"""As many as the committed training model of `model_samples` takes: no test of the study needs TensorFlow."""
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
EVERY_S = 10


def rows_of_a_machine(seed: int, count: int) -> NDArray[np.float32]:
    """(count, 6): two hidden courses that every sensor mixes in its own way, each with noise and a scale of its own."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 2))
    for at in range(1, count):
        hidden[at] = 0.3 * hidden[at - 1] + hidden[at]
    mixing = np.random.default_rng(7).normal(size=(2, len(SENSORS))) + 0.2 * rng.normal(
        size=(2, len(SENSORS))
    )
    scale = rng.uniform(0.5, 20.0, len(SENSORS))
    rows = (hidden @ mixing + 0.5 * rng.normal(size=(count, len(SENSORS)))) * scale + rng.uniform(
        0, 100, len(SENSORS)
    )
    return rows.astype(np.float32)


def with_fault(rows: NDArray[np.float32], first: int, end: int) -> NDArray[np.float32]:
    """The same with the flow five deviations off over [first, end)."""
    broken = rows.copy()
    broken[first:end, 1] += 5 * rows[:, 1].std()
    return broken


def write_machine(
    path: Path, rows: NDArray[np.float32], *, fault: tuple[int, int] | None = None, has_labels: bool = True
) -> None:
    """A CSV with a clock, and a column ``anomaly`` where it `has_labels`."""
    lines = [",".join(("time", *SENSORS, *(["anomaly"] if has_labels else [])))]
    for at, row in enumerate(rows):
        stamp = (BEGIN + timedelta(seconds=EVERY_S * at)).strftime("%Y-%m-%d %H:%M:%S")
        is_fault = fault is not None and fault[0] <= at < fault[1]
        cells = [stamp, *(f"{value:.5g}" for value in row), *([str(int(is_fault))] if has_labels else [])]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_four_machines(folder: Path, *, rows: int = 1000, has_labels: bool = True) -> Path:
    """pump-1 to pump-4; pump-2 has a fault over thirty rows in its last quarter."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        values = rows_of_a_machine(number, rows)
        fault = (rows * 4 // 5, rows * 4 // 5 + 30) if number == 2 else None
        if fault is not None:
            values = with_fault(values, *fault)
        write_machine(folder / f"pump-{number}.csv", values, fault=fault, has_labels=has_labels)
    return folder
