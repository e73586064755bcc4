"""Devices that the mixture judges, for tests of them.

A fleet of generated machines (tests/detection_fleets.py) makes the prior; machines of the same kind that are not
in it go through the pipeline, window by window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_world import FEATURES
from detection_fleets import Machine, machines
from test_agent_pipeline import Device

from edge_agent.judgement import Judged, Unjudged
from edge_agent.settings import DetectionSettings
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.thresholds import Opened

BUDGET = AlarmBudget(alarms_per_1000_windows=5.0)
SETTINGS = DetectionSettings(
    commissioning_windows=120, commissioning_longest_windows=120, reference_windows=120, budget=BUDGET
)


@pytest.fixture(scope="module")
def fleet() -> list[Machine]:
    return machines(count=9, learnt=240, later=1500, features=FEATURES, seed=3)


@pytest.fixture(scope="module")
def prior(fleet: list[Machine]) -> FleetPrior:
    return fleet_prior([machine.fitted for machine in fleet[:6]], SETTINGS.alarm_rules)


def lived(machine: Machine) -> np.ndarray:
    """All its healthy windows, from the first on."""
    return np.concatenate([machine.healthy, machine.later]).astype(np.float32)


def started(
    directory: Path, machine: Machine, prior: FleetPrior, settings: DetectionSettings = SETTINGS
) -> Device:
    """A device that has just commissioned and committed a release for the mixture."""
    device = Device(directory, settings)
    device.adopt(prior=prior)
    device.watch(lived(machine)[:120])
    return device


def scores(judgements: list[Judged | Unjudged]) -> list[float]:
    return [j.score for j in judgements if isinstance(j, Judged)]


def alarms(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and isinstance(j.alarm, Opened) for j in judgements)
