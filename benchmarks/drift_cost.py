"""What drift detection costs a device: time per sensor and window, and bytes of state per sensor; beside river's.

    python benchmarks/drift_cost.py        prints one JSON line a figure: name, value, unit, bound, ratio

Also part of `benchmarks/drift.py`. Times are those of the quietest stretches of 80 windows (the machine may be shared):
in control, as a device spends its life, and with every window looked at closely, as while something builds up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, KSWIN, PageHinkley

from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import fit_reference
from models.drift.replay import fit_calibrated_reference
from models.features import make_extractor, vibration_spec

WINDOWS = 4000
STRETCH = 80
REPEATS = 4


def quietest_us(
    step: Callable[[int], None], *, calls: int, stretch: int, repeats: int, share: float = 0.1
) -> float:
    """µs per call in the quietest `share` of all stretches of calls."""
    costs = []
    for _ in range(repeats):
        for start in range(0, calls, stretch):
            begin = time.perf_counter()
            for i in range(start, start + stretch):
                step(i)
            costs.append((time.perf_counter() - begin) / stretch * 1e6)
    return float(np.quantile(costs, share))


def monitor_us(rows: NDArray[np.float32], scores: list[float], settings: DriftSettings) -> tuple[float, int]:
    """µs per window of update and verdict, and bytes of the saved state when it is largest: 15 windows wait."""
    monitor = DriftMonitor(fit_reference(rows[:400], np.asarray(scores[:400])), settings)
    pairs = list(zip(rows, scores, strict=True))

    def step(i: int) -> None:
        monitor.update(*pairs[i])
        monitor.verdict()

    cost = quietest_us(step, calls=WINDOWS, stretch=STRETCH, repeats=REPEATS)
    largest = 0
    for i in range(16):
        step(i)
        largest = max(largest, len(monitor.state()))
    return cost, largest


def measure_cost() -> Iterator[dict[str, Any]]:
    """Figures as keyword arguments: name, value, unit and, where there is one, bound and ratio."""
    rng = np.random.default_rng(0)
    saved_bytes = {}
    for sensors in (8, 24, 46):
        rows = rng.standard_normal((WINDOWS, sensors)).astype(np.float32)
        scores = rng.lognormal(0, 0.4, WINDOWS).tolist()
        calm, state_bytes = monitor_us(rows, scores, DriftSettings())
        close, _ = monitor_us(rows, scores, DriftSettings(closer_above=0.0))
        yield _figure(f"drift per sensor and window, {sensors} sensors", calm / sensors, "µs", 1.0)
        yield _figure(f"drift while something builds up, {sensors} sensors", close / sensors, "µs", 1.0)
        yield _figure(f"drift per window, {sensors} sensors", calm, "µs", None)
        yield _figure(f"saved drift state, {sensors} sensors, at its largest", state_bytes, "B", None)
        saved_bytes[sensors] = state_bytes
    per_sensor = (saved_bytes[46] - saved_bytes[8]) / (46 - 8)
    yield _figure("drift state per sensor, at its largest", per_sensor, "B", 200.0)
    begin = time.process_time()
    fit_calibrated_reference(rng.standard_normal((120, 24)), np.ones(120), DriftSettings())
    yield _figure("new reference with its replay, 24 sensors", time.process_time() - begin, "s", None)
    values = rng.standard_normal(WINDOWS).tolist()
    for name, detector, calls in (
        ("ADWIN", ADWIN(), WINDOWS),
        ("Page-Hinkley", PageHinkley(), WINDOWS),
        ("KSWIN", KSWIN(seed=1), 400),
    ):
        for value in values[:200]:  # KSWIN does nothing before its window is full
            detector.update(value)
        cost = quietest_us(
            lambda i, d=detector: d.update(values[i]),  # type: ignore[misc]  # the default binds the loop's detector
            calls=calls,
            stretch=STRETCH,
            repeats=2,
            share=0.5,  # KSWIN does nothing for a while after each of its alarms
        )
        yield _figure(f"river {name} per sensor and window", cost, "µs", None)
    extractor = make_extractor(vibration_spec(12_800.0, 2048))
    window = rng.standard_normal((2048, 1)).astype(np.float32)
    cost = quietest_us(lambda _: _drop(extractor.extract(window)), calls=300, stretch=10, repeats=1)
    yield _figure("vibration features, 2048 samples, one channel", cost, "µs", 300.0)


def _drop(_: object) -> None:
    """A result nobody needs."""


def _figure(name: str, value: float, unit: str, bound: float | None) -> dict[str, Any]:
    figure: dict[str, Any] = {"name": name, "value": value, "unit": unit}
    return figure | ({"bound": bound, "ratio": value / bound} if bound else {})


def main() -> None:
    """Print every figure."""
    for figure in measure_cost():
        print(
            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figure.items()}), flush=True
        )


if __name__ == "__main__":
    main()
