"""The one gate before a signature: dead, deaf and ruined models on generated machines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, KEY
from msgspec import structs
from signing_gate_world import NAMES, candidate_of, failed, judged, linear, machine, sums_of

from aggregator.errors import ExportFailedError, GateRefusedError
from aggregator.exporter import SigningExporter
from aggregator.rounds.assessment import tensor_ranges
from aggregator.rounds.release_checks import check_first_sight, check_int8_model, check_sight, check_sums
from aggregator.rounds.runs import Check
from aggregator.rounds.signing_gate import REQUIRED, Cleared, clear
from models.architecture import split_parameters
from models.export.int8_graph import export_int8_model
from models.int8_model import Int8Model
from protocol.manifest import Provenance


def dead(x: np.ndarray) -> np.ndarray:
    """A network whose hidden units died: it answers every window with the mean, at the loss of doing nothing."""
    parameters = linear(x).copy()
    split_parameters(ARCHITECTURE, parameters)[1][:] = -100.0
    split_parameters(ARCHITECTURE, parameters)[3][:] = x.mean(axis=0)
    return parameters


def test_a_detector_of_correlated_sensors_passes_and_its_warnings_are_signed() -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    assert failed(checks) == {}
    assert {check.name for check in checks} == REQUIRED
    cleared = clear(proposed, content, checks)
    (warning,) = cleared.candidate.provenance.warnings
    assert "quantile 0.999 of fewer than 1000 scores is the largest of them" in warning


def test_a_network_that_answers_every_window_alike_is_refused_by_name_with_a_remedy() -> None:
    x = machine(400)
    _, _, checks = judged(dead(x), x, losses=(28.8, 3.6))
    reasons = failed(checks)
    assert reasons.keys() == {"output", "learned"}
    assert "every window gets the same output" in reasons["output"]
    assert "set it lower" in reasons["output"]
    assert reasons["learned"].startswith("loss 28.8 → 3.6, ")
    assert "leave it out" in reasons["learned"]
    # A linear detector may do so: its score is then the distance from the mean.
    sums = sums_of(dead(x), x)
    content = export_int8_model(ARCHITECTURE, dead(x), *tensor_ranges(sums))
    assert failed(check_int8_model(candidate_of(dead(x), sums), content, is_network=False, seed=0)) == {}


def test_nothing_is_signed_without_every_check_whoever_asks() -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    for missing in sorted(REQUIRED):
        some = tuple(check for check in checks if check.name != missing)
        with pytest.raises(GateRefusedError, match=f"pump/1 is not signed: nobody checked {missing}"):
            Cleared(candidate=proposed, int8_model=content, checks=some)
    lame = tuple(structs.replace(check, is_passed=check.name != "sight") for check in checks)
    with pytest.raises(GateRefusedError, match="pump/1 is not signed: 90% of slightly disturbed"):
        clear(proposed, content, lame)
    with pytest.raises(AttributeError):
        SigningExporter(KEY).release(proposed)  # type: ignore[arg-type] # what the type forbids


def test_columns_at_the_end_of_the_scale_are_named_and_too_many_are_refused() -> None:
    x = machine(400)
    x[:160, 2] = 8.0
    x[200:205, 4] = -8.0
    few = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
    )[0]
    # Only held-out windows are counted: 32 of 80 in c, one in e.
    assert (few.is_passed, few.is_warning) == (True, True)
    assert "single columns: c 40%, e 1%." in few.reason
    assert "raise commissioning_rows, or leave the column out" in few.reason
    x[:, 0] = 8.0
    many = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
    )
    assert "a 100%, c 40%" in failed(many)["clipped"]
    noised = check_sums(
        sums_of(linear(machine(400)), x),
        architecture=ARCHITECTURE,
        threshold=candidate_of(linear(x), sums_of(linear(x), x)).threshold,
        features=NAMES,
        is_exact=False,
    )
    assert failed(noised) == {}


def test_a_threshold_that_no_window_can_reach_is_refused() -> None:
    x = machine(400)
    sums = sums_of(linear(x), x)
    proposed = candidate_of(linear(x), sums)
    content = export_int8_model(ARCHITECTURE, linear(x), proposed.low, proposed.high)
    model = Int8Model(content)
    corners = np.array(np.meshgrid(*[[-8, 8]] * 6), np.float32).reshape(6, -1).T
    largest = max(model.infer_and_score(row)[1] for row in corners)
    for share, passes, warns in (
        (0.2, True, False),
        (0.3, True, True),
        (0.51, False, True),
        (2.0, False, True),
    ):
        deaf = replace(proposed, threshold=structs.replace(proposed.threshold, score=share * largest))
        _, check = check_int8_model(deaf, content, is_network=True, seed=0)
        assert (check.is_passed, check.is_warning) == (passes, warns), share
        assert check.value == pytest.approx(share, rel=1e-6)
    assert "fault can reach it" in check.reason


def test_too_few_rows_are_refused_and_a_machine_with_a_handful_is_named() -> None:
    x = machine(45)
    reason = failed(judged(linear(machine(400)), x)[2])["rows"]
    assert "45 windows of 6 features for 58 parameters; at least 50 are needed" in reason
    enough = judged(linear(machine(400)), machine(60), machines={"fan 1": 46, "fan 2": 14})[2]
    (rows,) = (check for check in enough if check.name == "rows")
    assert (rows.is_passed, rows.is_warning) == (True, True)
    assert "fan 2 14; they say little" in rows.reason


@pytest.mark.parametrize("worst", [3.4e30, 2e4, float("nan"), float("inf")])
def test_a_ruined_parameter_is_never_signed(worst: float) -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    parameters = linear(x).copy()
    parameters[7] = worst
    ruined = replace(proposed, parameters=parameters)
    with pytest.raises(ExportFailedError, match="parameter"):
        SigningExporter(KEY).release(clear(ruined, content, checks))


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_json_cannot_hold_is_named_before_anything_is_signed(figure: float) -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    provenance = Provenance(evaluation={"candidate_loss": figure})
    with pytest.raises(ExportFailedError, match=r"evaluation\['candidate_loss'\] of pump/1 is (nan|inf)"):
        SigningExporter(KEY).release(clear(replace(proposed, provenance=provenance), content, checks))
    endless = structs.replace(proposed.threshold, score=float("inf"))
    with pytest.raises(ExportFailedError, match=r"threshold.score of pump/1 is inf"):
        SigningExporter(KEY).release(clear(replace(proposed, threshold=endless), content, checks))


def test_a_check_of_what_is_not_finite_can_be_written_down_and_read_back() -> None:
    import msgspec

    check = Check(name="improvement", value=-np.inf, limit=0.0, is_passed=False, reason="")
    assert msgspec.json.decode(msgspec.json.encode(check), type=Check) == check


def test_a_first_release_that_sees_nothing_is_signed_only_where_somebody_accepts_it() -> None:
    assert check_first_sight(0.5, accepts_blind=False).is_passed
    refused, accepted = (check_first_sight(0.49, accepts_blind=blind) for blind in (False, True))
    assert not refused.is_passed
    assert "--accept-blind" in refused.reason
    assert (accepted.is_passed, accepted.is_warning) == (True, True)
    assert accepted.reason.endswith("accepted as blind")


@pytest.mark.parametrize(
    ("candidate", "champion", "passed"),
    [
        (0.7, 0.6, True),
        (0.55, 0.6, True),
        (0.53, 0.6, False),
        (0.0, 0.04, False),
        (0.0, 0.0, True),
        (0.01, 0.05, True),
    ],
)
def test_a_candidate_may_not_see_less_than_the_champion(
    candidate: float, champion: float, passed: bool
) -> None:
    assert check_sight(candidate, champion, 10_000.0).is_passed is passed
    assert check_sight(candidate, champion, 10_000.0, is_classifier=True).is_passed


def test_few_probes_are_given_their_standard_error() -> None:
    # 64 probes: 9 % against 2 % is six windows against one.
    assert check_sight(0.016, 0.094, 64.0).is_passed
    assert not check_sight(0.016, 0.094, 10_000.0).is_passed
    # The bearings' own: one of 1,300 is nothing that its successor could lose.
    assert check_sight(0.0, 0.001, 1300.0).is_passed
