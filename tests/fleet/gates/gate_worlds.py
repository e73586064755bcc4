"""Small fleets made by chance, for tests of the gates: devices that differ, alarms in bursts, looks that see ever more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Arms, Placebos, Shown
from fleet.gates.looks import look_times

WINDOWS_AN_HOUR = 3600
Floats = NDArray[np.float64]


def shown(devices: int, **figures: Floats | float) -> Shown:
    """What `devices` showed: an hour of health without anything in it, but for `figures`."""
    nothing: dict[str, Floats | float] = dict.fromkeys(Shown.__dataclass_fields__, 0.0)
    nothing |= dict.fromkeys(
        ("log_latency", "log_drift", "memory_slope", "sight", "first_event_hours"), np.nan
    )
    nothing |= {"hours": 1.0, **figures}
    return Shown(
        **{name: np.broadcast_to(np.float64(value), (devices,)).copy() for name, value in nothing.items()}
    )


def arms(
    canaries: int, controls: int, before: Shown, after: Shown, *, placebos: Placebos | None = None
) -> Arms:
    """Canaries first, one stratum, and a past in which hardly a device restarted."""
    devices = canaries + controls
    return Arms(
        devices=tuple(f"press-{n}" for n in range(devices)),
        is_canary=np.arange(devices) < canaries,
        stratum=np.zeros(devices, dtype=np.int64),
        before=before,
        after=after,
        placebos=placebos,
        hazard_events=5.0,
        hazard_hours=10_000.0,
    )


def latency_arms(
    canaries: int, controls: int, factor: float, rng: np.random.Generator, noise: float = 0.05
) -> Arms:
    """Devices of very different speed; canaries are slower by `factor`."""
    devices = canaries + controls
    own = rng.normal(7.0, 0.4, devices)
    slower = np.where(np.arange(devices) < canaries, np.log(factor), 0.0)
    return arms(
        canaries,
        controls,
        shown(devices, hours=4.0, log_latency=own + rng.normal(0, noise / 2, devices)),
        shown(devices, log_latency=own + slower + rng.normal(0, noise, devices)),
    )


def alarms(rates: Floats, hours: float, rng: np.random.Generator, factor: Floats | float = 1.0) -> Floats:
    """Windows over the threshold in `hours`, in bursts: within a minute as alike as a beta of correlation .05 makes them."""
    burst = rng.gamma(np.maximum(rates * 19 * hours * 60, 1e-9)) / 19
    return rng.poisson(60 * burst * factor).astype(np.float64)


def rates(devices: int, rng: np.random.Generator, base: float = 0.01) -> Floats:
    """How often devices alarm: they differ by a factor of three either way."""
    return np.minimum(base * np.exp(rng.normal(-0.5, 1.0, devices)), 0.3)


def a_soak(
    canaries: int, controls: int, rng: np.random.Generator, *, rate: float = 1.0, latency: float = 1.0
) -> Iterator[Arms]:
    """The arms at each look of an hour's soak, every look seeing what the one before saw and more."""
    devices = canaries + controls
    treated = np.arange(devices) < canaries
    own, base = rates(devices, rng), rng.normal(7.0, 0.4, devices)
    windows = 4.0 * WINDOWS_AN_HOUR
    before = shown(
        devices,
        hours=4.0,
        windows=windows,
        judged=windows,
        over=alarms(own, 4.0, rng),
        log_latency=base + rng.normal(0, 0.02, devices),
    )
    over, weighed, passed = np.zeros(devices), np.zeros(devices), 0.0
    for time in look_times(3600):
        step = time / 3600 - passed
        over = over + alarms(own, step, rng, np.where(treated, rate, 1.0))
        slower = np.where(treated, np.log(latency), 0.0)
        weighed = weighed + step * (base + slower) + np.sqrt(step) * rng.normal(0, 0.05, devices)
        passed += step
        windows = passed * WINDOWS_AN_HOUR
        after = shown(
            devices, hours=passed, windows=windows, judged=windows, over=over, log_latency=weighed / passed
        )
        yield arms(canaries, controls, before, after)


def on_strata(found: Arms, rng: np.random.Generator, strata: int) -> Arms:
    """The same with devices spread over `strata`, which differ in their weather."""
    codes = rng.integers(0, strata, len(found.devices))
    weather = rng.normal(0, 0.3, strata)
    return replace(
        found, stratum=codes, after=replace(found.after, log_latency=found.after.log_latency + weather[codes])
    )
