"""The physics of a rotating machine: the acceleration a sensor on its bearing housing would measure.

::

    shaft (speed, load) ─► harmonics of the shaft rate + twice line frequency ───────────────┐
    defect (BPFO/BPFI/BSF) ─► impacts with slip jitter ─┐                                    ├─► acceleration [g]
    wear, load ─► broadband noise ──────────────────────┴─► casing (two resonances) ─────────┘

It is a model for demonstrations and tests, not a digital twin: amplitudes are plausible, not identified. Machines of
one profile differ: amplitudes, casing and operating point are drawn per `seed`, as in a real fleet.

Invariants: same profile, seed and sequence of conditions → same windows; output is finite float32 (samples, 1).

Source: R. B. Randall and J. Antoni, "Rolling element bearing diagnostics: a tutorial", MSSP 25 (2011): defect rates
(their Eqs. 1-4), slip as a random walk of the impact times, load-zone modulation.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

__all__ = ["PROFILES", "Bearing", "Fault", "MachineCondition", "MachineProfile", "RotatingMachine"]


class Bearing(Struct, frozen=True, kw_only=True):
    """Rolling-element bearing geometry; angles in degrees."""

    balls: int
    ball_diameter_mm: float
    pitch_diameter_mm: float
    contact_angle_deg: float = 0.0

    @property
    def _ratio(self) -> float:
        cosine = float(np.cos(np.deg2rad(self.contact_angle_deg)))
        return self.ball_diameter_mm / self.pitch_diameter_mm * cosine

    @property
    def cage_order(self) -> float:
        """Turns of the cage per shaft turn (FTF)."""
        return 0.5 * (1 - self._ratio)

    @property
    def outer_race_order(self) -> float:
        """Impacts per shaft turn from an outer-race defect (BPFO)."""
        return self.balls * 0.5 * (1 - self._ratio)

    @property
    def inner_race_order(self) -> float:
        """Impacts per shaft turn from an inner-race defect (BPFI)."""
        return self.balls * 0.5 * (1 + self._ratio)

    @property
    def ball_order(self) -> float:
        """Impacts per shaft turn from a defect on one ball: it strikes both races, so twice the spin rate (2·BSF)."""
        return self.pitch_diameter_mm / self.ball_diameter_mm * (1 - self._ratio**2)


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A defect; `severity` 0 is none, 1 is about to fail."""

    kind: Literal["outer_race", "inner_race", "ball", "imbalance"]
    severity: Annotated[float, Meta(ge=0, le=1)]


class MachineCondition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the world does to the machine: `load` 1.0 is nominal, `speed_rpm` None follows from the load."""

    load: Annotated[float, Meta(ge=0, le=3)] = 1.0
    speed_rpm: Annotated[float, Meta(gt=60, le=30_000)] | None = None
    wear: Annotated[float, Meta(ge=0, le=1)] = 0.0
    fault: Fault | None = None


class MachineProfile(Struct, frozen=True, kw_only=True):
    """A machine type. Amplitudes in g at nominal load; `slip` is the relative speed loss from no to nominal load."""

    name: str
    speed_rpm: float
    slip: float
    bearing: Bearing
    resonances_hz: tuple[float, float]
    damping: float
    harmonics_g: tuple[float, ...]
    line_g: float
    noise_g: float
    wear_per_hour: float


PROFILES: Final = {
    profile.name: profile
    for profile in (
        MachineProfile(
            name="motor-a",
            speed_rpm=1480.0,
            slip=0.013,
            bearing=Bearing(balls=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.0),
            resonances_hz=(2300.0, 4100.0),
            damping=0.05,
            harmonics_g=(0.20, 0.09, 0.04, 0.02, 0.01),
            line_g=0.06,
            noise_g=0.05,
            wear_per_hour=2e-5,
        ),
        MachineProfile(
            name="pump-b",
            speed_rpm=2940.0,
            slip=0.02,
            bearing=Bearing(balls=8, ball_diameter_mm=12.0, pitch_diameter_mm=52.0),
            resonances_hz=(1900.0, 3600.0),
            damping=0.06,
            harmonics_g=(0.30, 0.12, 0.10, 0.03, 0.12, 0.02),
            line_g=0.04,
            noise_g=0.09,
            wear_per_hour=4e-5,
        ),
        MachineProfile(
            name="fan-c",
            speed_rpm=975.0,
            slip=0.025,
            bearing=Bearing(balls=12, ball_diameter_mm=9.5, pitch_diameter_mm=61.0, contact_angle_deg=10.0),
            resonances_hz=(2700.0, 4700.0),
            damping=0.045,
            harmonics_g=(0.35, 0.08, 0.05, 0.03, 0.02, 0.02, 0.08),
            line_g=0.03,
            noise_g=0.035,
            wear_per_hour=1e-5,
        ),
    )
}
"""A four-pole motor, a two-pole pump with five vanes, and a slow fan with seven blades."""

_LINE_HZ: Final = 50.0
_SLIP_JITTER: Final = 0.012
"""Standard deviation of the time between impacts, relative: 1-2 % in Randall and Antoni."""
_IMPACT_G: Final = 6.0
"""Peak of one impact at severity 1 and nominal load, before the casing."""
_OPERATING_SPREAD: Final = 0.04
"""Standard deviation of the load around its set point: real processes breathe."""
_OPERATING_MEMORY: Final = 0.7
"""Autocorrelation of that breathing from one window to the next."""


class RotatingMachine:
    """One individual machine.

    Args:
        profile: its type.
        seed: which individual; also seeds everything random it will ever do.
        sample_rate_hz: of the sensor; the casing's resonances must lie below half of it.
        window_samples: per window, even.
    """

    def __init__(
        self,
        profile: MachineProfile,
        *,
        seed: int,
        sample_rate_hz: float = 12_800.0,
        window_samples: int = 2048,
    ) -> None:
        if window_samples < 64 or window_samples % 2:
            raise ValueError(f"window_samples must be even and at least 64, got {window_samples}")
        if sample_rate_hz <= 2.2 * max(profile.resonances_hz):
            raise ValueError(
                f"sample_rate_hz {sample_rate_hz:g} is too low for {profile.name}: its casing rings at "
                f"{max(profile.resonances_hz):g} Hz, sample at {2.2 * max(profile.resonances_hz):g} Hz or more"
            )
        self.profile = profile
        self._rate, self._n = sample_rate_hz, window_samples
        self._random = np.random.default_rng([seed, 0x0FED6E])
        self._time_s = np.arange(window_samples) / sample_rate_hz
        draw = self._random
        self._harmonics_g = np.asarray(profile.harmonics_g) * draw.lognormal(
            0.0, 0.25, len(profile.harmonics_g)
        )
        self._noise_g = profile.noise_g * draw.lognormal(0.0, 0.2)
        self._line_g = profile.line_g * draw.lognormal(0.0, 0.25)
        self._speed_factor = draw.normal(1.0, 0.006)
        self._sensitivity = draw.lognormal(0.0, 0.15)
        self._transfer = self._casing(np.asarray(profile.resonances_hz) * draw.normal(1.0, 0.03, 2))
        self._breathing = draw.normal(0.0, _OPERATING_SPREAD)

    def window(self, condition: MachineCondition, machine_s: float) -> NDArray[np.float32]:
        """Acceleration in g, shape (window_samples, 1), at `machine_s` seconds of the machine's life."""
        load, turn_hz = self._operating_point(condition)
        wear = min(1.0, condition.wear + self.profile.wear_per_hour * machine_s / 3600.0)
        excitation = self._broadband(load, wear)
        if wear > 0.05:
            self._add_impacts(excitation, "outer_race", 0.25 * wear**2, load, turn_hz)
        fault = condition.fault
        if fault is not None and fault.kind != "imbalance":
            self._add_impacts(excitation, fault.kind, fault.severity, load, turn_hz)
        imbalance = fault.severity if fault is not None and fault.kind == "imbalance" else 0.0
        housing = np.fft.irfft(np.fft.rfft(excitation) * self._transfer, self._n)
        housing += self._tones(load, turn_hz, imbalance)
        return np.asarray(self._sensitivity * housing, np.float32).reshape(-1, 1)

    def _operating_point(self, condition: MachineCondition) -> tuple[float, float]:
        """(load, shaft rate in Hz) of this window: the set point, breathing slowly."""
        shock = self._random.normal(0.0, _OPERATING_SPREAD * (1 - _OPERATING_MEMORY**2) ** 0.5)
        self._breathing = _OPERATING_MEMORY * self._breathing + shock
        load = max(0.05, condition.load * (1.0 + self._breathing))
        nominal_rpm = condition.speed_rpm or self.profile.speed_rpm
        slowed = 1.0 - self.profile.slip * (load - 1.0)
        return load, nominal_rpm * self._speed_factor * slowed * self._random.normal(1.0, 0.001) / 60.0

    def _broadband(self, load: float, wear: float) -> NDArray[np.float64]:
        """Rolling and flow noise: grows with load, and with the surface roughness that wear brings."""
        level = self._noise_g * load**0.8 * (1.0 + 2.0 * wear) * self._random.lognormal(0.0, 0.06)
        return np.asarray(level * self._random.standard_normal(self._n))

    def _tones(self, load: float, turn_hz: float, imbalance: float) -> NDArray[np.float64]:
        """Shaft harmonics and twice line frequency; imbalance drives the first, misalignment under load the others."""
        orders = np.arange(1, len(self._harmonics_g) + 1)
        amplitude = self._harmonics_g * load**0.7 * self._random.lognormal(0.0, 0.05, len(orders))
        amplitude[0] = amplitude[0] / load**0.5 + 2.5 * imbalance * self.profile.harmonics_g[0]
        frequency = np.append(orders * turn_hz, 2 * _LINE_HZ)
        amplitude = np.append(amplitude, self._line_g * load**1.5)
        phase = self._random.uniform(0, 2 * np.pi, len(frequency))
        total = np.zeros(self._n)
        for a, f, p in zip(amplitude, frequency, phase, strict=True):
            total += a * np.cos((2 * np.pi * f) * self._time_s + p)
        return total

    def _add_impacts(
        self, excitation: NDArray[np.float64], kind: str, severity: float, load: float, turn_hz: float
    ) -> None:
        """Strike the casing once per passing of the defect, in place."""
        bearing = self.profile.bearing
        order, modulation_order = {
            "outer_race": (bearing.outer_race_order, 0.0),
            "inner_race": (bearing.inner_race_order, 1.0),
            "ball": (bearing.ball_order, bearing.cage_order),
        }[kind]
        period_s = 1.0 / (order * turn_hz)
        count = int(self._n / self._rate / period_s) + 2
        steps = period_s * (1.0 + _SLIP_JITTER * self._random.standard_normal(count))
        steps[0] *= self._random.uniform()
        moment_s = np.cumsum(steps)
        strength = _IMPACT_G * severity * load**0.5 * self._random.lognormal(0.0, 0.15, count)
        if modulation_order:
            # The defect travels through the load zone; an outer-race defect stays in it.
            turn = 2 * np.pi * modulation_order * turn_hz * moment_s + self._random.uniform(0, 2 * np.pi)
            strength *= 0.5 * (1.0 + np.cos(turn))
        at = np.floor(moment_s * self._rate)
        inside = at < self._n - 1
        first = at[inside].astype(np.intp)
        late = (moment_s * self._rate - at)[inside]
        np.add.at(excitation, first, strength[inside] * (1 - late))
        np.add.at(excitation, first + 1, strength[inside] * late)

    def _casing(self, resonances_hz: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Acceleration response of the housing: a direct path and two damped modes, at each rfft bin."""
        frequency = np.fft.rfftfreq(self._n, 1.0 / self._rate)
        response = np.full(len(frequency), 0.3, np.complex128)
        for resonance_hz, gain in zip(resonances_hz, (1.0, 0.7), strict=True):
            r = frequency / resonance_hz
            response += gain * 0.15 * r**2 / (1 - r**2 + 2j * self.profile.damping * r)
        return response
