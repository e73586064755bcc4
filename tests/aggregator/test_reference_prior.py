"""The prior of version 1: recordings as devices, what they see together, and what the gate says of it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from signing_gate_world import judged, linear, machine

from aggregator.errors import GateRefusedError
from aggregator.family_file import FamilySpec
from aggregator.reference_prior import MixtureSight, Recording, mixture_sight, prior_of
from aggregator.rounds.prior_checks import check_mixture_sight, check_prior, only_warn
from aggregator.rounds.runs import Check
from aggregator.rounds.signing_gate import Cleared
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, encode_prior, fleet_prior
from models.standardiser import fit_standardiser
from runtime.errors import SettingsError


def recording(seed: int, rows: int = 300, *, noise: float = 0.1) -> Recording:
    raw = machine(rows, seed, noise=noise) * (1.0 + seed)
    scale = fit_standardiser(raw[:120])
    return scale.apply(raw), scale.scale


@pytest.fixture(scope="module")
def prior() -> FleetPrior:
    return prior_of([recording(i) for i in range(4)])


def test_each_recording_is_a_device_of_the_prior_and_one_of_a_few_rows_is_none(prior: FleetPrior) -> None:
    fleet = [recording(i) for i in range(4)]
    assert encode_prior(prior) == encode_prior(fleet_prior(fleet, AlarmRules()))
    short = (recording(8)[0][:19], np.ones(6))
    assert encode_prior(prior_of([*fleet, short])) == encode_prior(prior)
    with pytest.raises(SettingsError, match=r'no recording has 20 rows.*detector = "network"'):
        prior_of([short])


def test_sensors_that_follow_each_other_are_seen_to_leave_and_independent_ones_are_not(
    prior: FleetPrior,
) -> None:
    seen = mixture_sight([recording(i) for i in range(4)], prior)
    assert 0.5 < seen.in_force <= seen.at_most
    rng = np.random.default_rng(5)
    noise = [(rng.normal(size=(300, 24)).astype(np.float32), np.ones(24)) for _ in range(3)]
    deaf = mixture_sight(noise, prior_of(noise))
    assert deaf.at_most < 0.5
    assert mixture_sight([(noise[0][0][:20], np.ones(24))], prior_of(noise)) == MixtureSight(0.0, 0.0)


def test_the_sight_is_that_at_the_threshold_in_force(prior: FleetPrior) -> None:
    """A prior of the same fleet that opens a thousand times as often puts the threshold up, and less is seen."""
    restless = {
        age: replace(curve, rate=np.minimum(1e3 * curve.rate, 1.0), alikeness=25.0)
        for age, curve in prior.curves.items()
    }
    fleet = [recording(i) for i in range(4)]
    calm, worse = (mixture_sight(fleet, one) for one in (prior, replace(prior, curves=restless)))
    assert worse.in_force < calm.in_force
    assert worse.at_most == calm.at_most


def test_a_promise_on_few_windows_is_said_and_one_that_no_level_keeps_is_refused(prior: FleetPrior) -> None:
    few = check_prior(prior)
    assert (few.is_passed, few.is_warning) == (True, True)
    assert "the prior of 4 devices counts openings on 1,200 windows" in few.reason
    assert "provisional" in few.reason
    many = {age: replace(curve, windows=3000.0) for age, curve in prior.curves.items()}
    assert not check_prior(replace(prior, curves=many)).is_warning
    deaf = {age: replace(curve, rate=np.full(209, 0.01)) for age, curve in prior.curves.items()}
    refused = check_prior(replace(prior, curves=deaf))
    assert (refused.is_passed, refused.is_warning) == (False, False)
    assert "at no level do they keep 1 alarm in 1,000 windows" in refused.reason
    assert not check_prior(replace(prior, curves={})).is_passed
    always_open = {age: replace(curve, share=np.ones(209)) for age, curve in many.items()}
    assert not check_prior(replace(prior, curves=always_open)).is_passed
    young = check_prior(replace(prior, curves=many | {16: deaf[16]}))
    assert (young.is_passed, young.is_warning) == (True, True)
    assert "detectors fitted on 16 windows keep 1 alarm in 1,000 windows at no level" in young.reason


def test_a_network_that_does_not_judge_refuses_nothing_and_is_told_of() -> None:
    sound, poor = (
        Check(name="learned", value=0.0, limit=0.05, is_passed=passed, reason="why")
        for passed in (True, False)
    )
    assert [(check.is_passed, check.is_warning) for check in only_warn((sound, poor))] == [
        (True, False),
        (True, True),
    ]


def test_what_few_windows_do_not_see_at_first_is_a_warning_and_what_none_cures_is_refused() -> None:
    sees = check_mixture_sight(0.6, 0.9, accepts_blind=False)
    assert (sees.value, sees.is_passed, sees.is_warning) == (0.6, True, False)
    warned = check_mixture_sight(0.004, 0.6, accepts_blind=False)
    assert (warned.value, warned.is_passed, warned.is_warning) == (0.004, True, True)
    assert "0% of slightly disturbed windows are over the threshold that keeps 1 alarm" in warned.reason
    assert "to 60% at most" in warned.reason
    blind = check_mixture_sight(0.0, 0.1, accepts_blind=False)
    assert (blind.value, blind.is_passed) == (0.0, False)
    accepted = check_mixture_sight(0.0, 0.1, accepts_blind=True)
    assert (accepted.is_passed, accepted.is_warning) == (True, True)


def test_a_release_with_a_prior_that_nobody_checked_is_not_signed(prior: FleetPrior) -> None:
    x = machine(400)
    proposed, content, checks = judged(linear(x), x)
    with pytest.raises(GateRefusedError, match="nobody checked prior"):
        Cleared(candidate=replace(proposed, prior=prior), int8_model=content, checks=checks)
    Cleared(
        candidate=replace(proposed, prior=prior), int8_model=content, checks=(*checks, check_prior(prior))
    )


def spec(**changes: object) -> FamilySpec:
    width = changes.pop("width", 6)
    made = {
        "family": "pump",
        "model": {"layers": [width, 4, width]},
        "features": {"kind": "passthrough", "names": [f"f{i}" for i in range(int(str(width)))]},
    }
    return msgspec.convert(made | changes, FamilySpec)


def test_autoencoders_of_features_are_mixtures_unless_they_are_wide_or_somebody_wants_the_network() -> None:
    assert spec().is_mixture
    assert spec(width=128).is_mixture
    assert not spec(width=129).is_mixture
    assert not spec(detector="network").is_mixture
    with pytest.raises(
        msgspec.ValidationError, match="up to 128 features, this is a dense-autoencoder of 129"
    ):
        spec(width=129, detector="mixture")
