"""An attacker's view: how sure can one be, from the sums, that a device took part? Never surer than ε allows.

Two thousand canaries, each a device that pushes its own coordinate as hard as clipping lets it; a coin decides who takes
part. The attacker guesses from the sum. The lower bound on ε that the guesses prove (Clopper-Pearson, Bonferroni over all
thresholds tried) must stay below the ε claimed, and must exceed it when the noise is secretly cut to 0.3 of the plan.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", arXiv:2305.08846v1, for many canaries in
one run; Jagielski et al., arXiv:2006.07709v2, for the bound.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from privacy_oracles import gaussian_epsilon, proportion_bounds, seeded_bytes

from protocol.privacy import mechanism
from protocol.privacy.mechanism import PrivacyParameters, decode, encode
from protocol.privacy.parameters import NoiseKind
from protocol.privacy.randomness import RandomStream

pytestmark = pytest.mark.edge

CANARIES, DELTA, CONFIDENCE = 2000, 1e-3, 0.99
MULTIPLIER = 1.5


def canary_scores(parameters: PrivacyParameters, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores of those who took part, scores of those who did not): each canary's coordinate of the sum, over the clip."""
    rng = np.random.default_rng(seed)
    joined = rng.permutation(CANARIES)[: parameters.cohort]
    total, random_bytes = np.zeros(parameters.vector_length, np.uint64), seeded_bytes(seed)
    for canary in joined:
        update = np.zeros(parameters.dimension)
        update[canary] = 100.0
        total += encode(update, parameters, random_bytes, rotation_seed=b"audit")
    words = (total % np.uint64(1 << parameters.bits)).astype(np.uint32)
    mean = decode(words, parameters, survivors=parameters.cohort, rotation_seed=b"audit")
    scores = mean * parameters.cohort / parameters.clip
    took_part = np.isin(np.arange(CANARIES), joined)
    return scores[:CANARIES][took_part], scores[:CANARIES][~took_part]


def proven_epsilon(inside: np.ndarray, outside: np.ndarray) -> float:
    """The largest lower bound on ε over 20 thresholds and both guesses, right with probability CONFIDENCE."""
    thresholds = np.quantile(outside, np.linspace(0.02, 0.998, 20))
    error = (1 - CONFIDENCE) / (len(thresholds) * 4)
    best = 0.0
    for threshold in thresholds:
        hits, false = int((inside > threshold).sum()), int((outside > threshold).sum())
        hit_low, hit_high = proportion_bounds(hits, len(inside), error)
        false_low, false_high = proportion_bounds(false, len(outside), error)
        for numerator, denominator in ((hit_low, false_high), (1 - false_high, 1 - hit_low)):
            if numerator > DELTA:
                best = max(best, math.log((numerator - DELTA) / denominator))
        assert false_low <= false_high
        assert hit_low <= hit_high
    return best


@pytest.mark.parametrize("noise", [NoiseKind.DISCRETE_GAUSSIAN, NoiseKind.SKELLAM])
@pytest.mark.parametrize("bits", [16, 32])
def test_the_audit_proves_less_than_is_claimed(bits: int, noise: NoiseKind) -> None:
    parameters = PrivacyParameters(
        dimension=2048, clip=1.0, noise_multiplier=MULTIPLIER, cohort=CANARIES // 2, bits=bits, noise=noise
    )
    claimed = gaussian_epsilon(parameters.realised_multiplier, DELTA)
    proven = proven_epsilon(*canary_scores(parameters, seed=1))
    assert proven < claimed
    # The attack is a real one: with this many canaries part of the claim is within its reach.
    assert proven > 0.15 * claimed


def test_the_audit_catches_a_build_that_adds_three_tenths_of_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = PrivacyParameters(
        dimension=2048, clip=1.0, noise_multiplier=MULTIPLIER, cohort=CANARIES // 2, bits=16
    )
    genuine = mechanism.draw_discrete_gaussian

    def weakened(count: int, std: float, stream: RandomStream) -> np.ndarray:
        return genuine(count, 0.3 * std, stream)

    monkeypatch.setattr(mechanism, "draw_discrete_gaussian", weakened)
    claimed = gaussian_epsilon(parameters.realised_multiplier, DELTA)
    assert proven_epsilon(*canary_scores(parameters, seed=1)) > 1.2 * claimed


def test_an_audit_of_no_noise_at_all_proves_what_its_canaries_can() -> None:
    assert proven_epsilon(np.ones(1000), np.zeros(1000)) > 4.5


def test_the_reference_epsilon_is_the_known_one() -> None:
    # Balle & Wang's analytic calibration: σ = 3.730631634816464 at ε = 1, δ = 1e-5.
    assert gaussian_epsilon(3.730631634816464, 1e-5) == pytest.approx(1.0, abs=1e-6)
