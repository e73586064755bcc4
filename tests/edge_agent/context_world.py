"""A machine of six sensors with a cycle of its clock or with regimes, for devices that learn of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_world import FEATURES
from detection_fleets import machines
from test_agent_pipeline import Device

from edge_agent.judgement import Judged, Unjudged
from edge_agent.settings import DetectionSettings
from models.detection.context import Context
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.thresholds import Opened

DAY = 48
SETTINGS = DetectionSettings(
    commissioning_windows=2 * DAY,
    commissioning_longest_windows=2 * DAY,
    reference_windows=120,
    period_s=float(DAY),
    budget=AlarmBudget(alarms_per_1000_windows=5.0),
)
Rows = np.ndarray


@pytest.fixture(scope="module")
def prior() -> FleetPrior:
    fleet = machines(count=6, learnt=240, later=1500, features=FEATURES, seed=3)
    return fleet_prior([machine.fitted for machine in fleet], SETTINGS.alarm_rules)


def noise(count: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def course(first: int, count: int) -> Rows:
    """A day of half of the sensors, three deviations up and down."""
    at = 2 * np.pi * (first + np.arange(count)) / DAY
    return np.outer(np.sin(at) + 0.5 * np.sin(2 * at), [3, -3, 2, 0, 0, 0]).astype(np.float32)


def started(directory: Path, rows: Rows, prior: FleetPrior, settings: DetectionSettings = SETTINGS) -> Device:
    device = Device(directory, settings)
    device.adopt(prior=prior)
    device.watch(rows)
    return device


def context_of(device: Device) -> Context | None:
    judge = device.pipeline.normal.judge
    assert judge is not None
    return judge.context


def opened(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and isinstance(j.alarm, Opened) for j in judgements)


def reported(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and j.drift is not None for j in judgements)
