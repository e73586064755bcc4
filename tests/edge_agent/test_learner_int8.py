"""The learner tells the device's owner what int8 costs on the device's own windows, and is not stopped by it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from agent_world import TRUSTED, healthy, make_bundle

from edge_agent.learner import __main__ as learner
from models.bundles import ModelBundle, read_bundle
from models.training_model import TrainingModel
from protocol.bundle import open_bundle

pytestmark = pytest.mark.edge


def bundle() -> ModelBundle:
    return read_bundle(open_bundle(make_bundle(), TRUSTED))


def told(release: ModelBundle, rows: np.ndarray) -> None:
    learner._compare(release, TrainingModel(release.training_model, release.architecture), rows)


def test_one_line_says_how_far_int8_is_from_float_on_real_windows(caplog) -> None:
    with caplog.at_level("INFO"):
        told(bundle(), healthy(40))
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("int8_compared release=pump/1 windows=40 output_error=")


def test_a_model_that_cannot_be_compared_is_said_and_stops_nothing(caplog) -> None:
    told(dataclasses.replace(bundle(), int8_model=b"no model" * 20), healthy(4))
    assert "int8_not_compared release=pump/1" in caplog.text
