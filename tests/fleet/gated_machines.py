"""Devices that differ as machines do, whose figures say what the release under test does to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from rollout_world import RolloutWorld
from sqlalchemy import select

from fleet.retention.health_blocks import HealthRollUp
from fleet.rollouts.states import RolloutState
from fleet.storage.device_tables import Device
from fleet.views.rollouts import RolloutView

EVERY_S: Final = 100.0
BASELINE_S, WARM_UP_S, SOAK_S = 3600.0, 900.0, 3600.0
GATES: Final = {"baseline_s": BASELINE_S, "warm_up_s": WARM_UP_S, "hold_out": 0}
Harm = Mapping[str, float]


class Machines:
    """Devices (forty, if nobody says how many) that differ as machines do: each with its own latency and rate of alarms, and noise about them."""

    def __init__(self, database_url: str, devices: int = 40) -> None:
        self.world = RolloutWorld(database_url, devices)
        self.world.now = 1_000_200.0
        self.rng = np.random.default_rng(7)
        count = len(self.world.devices)
        self.latency = dict(
            zip(self.world.devices, 100 * np.exp(self.rng.normal(0, 0.4, count)), strict=True)
        )
        self.rate = dict(zip(self.world.devices, 0.02 * np.exp(self.rng.normal(0, 0.5, count)), strict=True))
        self.dead: set[str] = set()

    def begin(self, canaries: int = 6, *, past_s: float = BASELINE_S, **changes: Any) -> str:
        """A rollout whose canary has committed the release, after a past."""
        self.live(past_s)
        groups = [
            {"name": "canary", "count": canaries, "soak_s": SOAK_S},
            {"name": "all", "percentage": 100, "soak_s": SOAK_S},
        ]
        rollout = self.world.started(**{"groups": groups, "gates": GATES, "limits": []} | changes)
        self.world.install(self.canaries(rollout))
        self.world.tick()
        return rollout

    def canaries(self, rollout: str) -> list[str]:
        return self.world.members(rollout, 0)

    def live(self, seconds: float, harm: Harm | None = None) -> None:
        """Time passes; `harm` is what the release under test does to the devices that run it."""
        with self.world.database.read() as session:
            on = set(session.scalars(select(Device.id).where(Device.release == "pump/2")))
        times = np.arange(self.world.now + EVERY_S, self.world.now + seconds + 0.5, EVERY_S)
        rows = [
            self._message(
                device, float(at), float(at - times[0]) / 3600, (harm or {}) if device in on else {}
            )
            for device in self.world.devices
            if device not in self.dead
            for at in times
        ]
        self.world.tell(rows)
        self.world.now += seconds
        while HealthRollUp(self.world.database, offline_after_s=120.0).roll_up():
            pass

    def _message(self, device: str, at: float, hours: float, harm: Harm) -> dict[str, Any]:
        over = self.rng.binomial(100, min(1.0, self.rate[device] * harm.get("rate", 1.0)))
        leaked = harm.get("leak", 0.0) * hours
        return {
            "device": device,
            "received_at": at,
            "inference_p99_us": self.latency[device]
            * np.exp(self.rng.normal(0, 0.2))
            * harm.get("latency", 1.0),
            "anomaly_rate": over / 100,
            "interval_windows": 100,
            "interval_judged": 100,
            "memory_pss_bytes": int(5e7 * np.exp(self.rng.normal(0, 0.002) + leaked)),
            "drift_score": 0.1 * np.exp(self.rng.normal(0, 0.1)),
            "sight": 0.9 * np.exp(-abs(self.rng.normal(0, 0.03))) * harm.get("sight", 1.0),
        }

    def soak(self, rollout: str, harm: Harm | None = None, looks: int = 6) -> RolloutView:
        """Live from look to look, until something follows or `looks` were taken."""
        self.live(WARM_UP_S, harm)
        lived = 0.0
        for number in range(looks):
            until = SOAK_S / 2 ** (5 - number)
            self.live(until - lived + (0.5 if not lived else 0.0), harm)
            lived = until
            self.world.tick()
            if self.world.view(rollout).state is not RolloutState.RUNNING:
                break
        return self.world.view(rollout)
