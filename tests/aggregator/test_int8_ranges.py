"""int8 on machines that differ from those that version 1 was learned from: what a margin of the ranges is worth, and who sees it missing."""

from __future__ import annotations

import numpy as np
import pytest
from signing_gate_world import candidate_of, sums_of

from aggregator.rounds.assessment import tensor_ranges
from aggregator.rounds.gate import GateSettings, check_int8
from aggregator.rounds.int8_report import compare_int8
from models import reference_model
from models.architecture import Architecture
from models.export.int8_graph import export_int8_model
from models.int8_model import Int8Model
from models.linear_baseline import principal_component_parameters
from models.moments import Moments

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 6))
CAUSES = np.random.default_rng(99).normal(size=(2, 6)) / 1.4
NOISE = 0.12


def windows(count: int, seed: int, *, liveliness: float = 1.0) -> np.ndarray:
    """Six sensors that follow two causes, which move `liveliness` times as far as on the reference machines."""
    rng = np.random.default_rng(seed)
    causes = liveliness * np.clip(rng.normal(size=(count, 2)), -2, 2) @ CAUSES
    return np.clip(causes + NOISE * rng.normal(size=(count, 6)), -8, 8).astype(np.float32)


def average_precision(healthy: np.ndarray, faulty: np.ndarray) -> float:
    scores = np.concatenate([healthy, faulty])
    is_fault = np.concatenate([np.zeros(len(healthy)), np.ones(len(faulty))])[
        np.argsort(-scores, kind="stable")
    ]
    precision = np.cumsum(is_fault) / np.arange(1, len(scores) + 1)
    return float((precision * is_fault).sum() / is_fault.sum())


def test_a_margin_of_the_ranges_keeps_int8_as_good_as_float_on_machines_that_differ() -> None:
    x = windows(400, 0)
    parameters = principal_component_parameters(ARCHITECTURE, Moments.of(x))
    sums = sums_of(parameters, x)
    # As it was: ranges of the held-out fifth, as they were seen.
    held_out = x[4::5]
    old = reference_model.ranges(ARCHITECTURE, parameters, held_out)
    new = tensor_ranges(sums)
    # Thirty machines that are up to half as lively again; a fault is a sensor that no longer follows.
    healthy = np.concatenate([windows(40, 100 + m, liveliness=1.0 + m / 58) for m in range(30)])
    faulty = np.concatenate([windows(10, 200 + m, liveliness=1.0 + m / 58) for m in range(30)])
    sensors = np.random.default_rng(1).integers(0, 6, len(faulty))
    faulty[np.arange(len(faulty)), sensors] += np.float32(0.7)
    precision = {
        "float": average_precision(
            *(reference_model.infer(ARCHITECTURE, parameters, r)[1] for r in (healthy, faulty))
        )
    }
    verdicts = {}
    for name, (low, high) in (("old", old), ("new", new)):
        content = export_int8_model(ARCHITECTURE, parameters, low, high)
        model = Int8Model(content)
        precision[name] = average_precision(
            *(np.array([model.infer_and_score(row)[1] for row in rows]) for rows in (healthy, faulty))
        )
        report = compare_int8(candidate_of(parameters, sums), content, sums, seed=0)
        verdicts[name] = (report, check_int8(GateSettings(), report)[0].is_passed)
    # float .909, without a margin .630, with it .904.
    assert precision["float"] > 0.9
    assert precision["new"] == pytest.approx(precision["float"], abs=0.01)
    assert precision["old"] < precision["float"] - 0.2
    # Typical windows lie inside the old ranges and would let them pass; livelier ones do not.
    limit = GateSettings().maximum_int8_error
    assert verdicts["old"][0].output_error < limit < verdicts["old"][0].lively_error
    assert not verdicts["old"][1]
    assert verdicts["new"][1]


def test_ranges_are_those_of_all_healthy_windows_and_the_input_ends_at_the_clip() -> None:
    x = windows(400, 0)
    x[3] = 7.0  # not held out
    parameters = principal_component_parameters(ARCHITECTURE, Moments.of(windows(400, 0)))
    low, high = tensor_ranges(sums_of(parameters, x))
    seen_low, seen_high = reference_model.ranges(ARCHITECTURE, parameters, x)
    assert high[0] == 8.0
    assert (high >= 1.5 * seen_high - 1e-3)[1:].all()
    assert (low <= np.where(seen_low < 0, 1.5 * seen_low, seen_low) + 1e-3)[1:].all()
