"""A release's signed claim against this device's own account: what agrees, what does not, and what cannot be compared.

The account is the independent witness: the aggregator computes its claim from a ledger that it writes itself. Only what this device
opened with its own shares is held against the claim, at the noise of just those sums. An honest aggregator counts each of them, also where
the round came to nothing once shares were asked for; so it always agrees.

It witnesses for this device alone: that other devices were counted right, their accounts must say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.privacy.review import Given
from protocol.manifest import Manifest
from protocol.privacy_claim import PrivacyClaim
from protocol.privacy_cost import PrivacyCost, epsilon
from protocol.questions import TRAINING_KINDS

__all__ = ["Finding", "Verdict", "check_release"]

_ROUNDED = 1.001
"""Claim and account add the same floats in another order."""


class Verdict(StrEnum):
    """What one comparison came to."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNKNOWN = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison, in words for the owner."""

    verdict: Verdict
    words: str


def check_release(manifest: Manifest, given: Sequence[Given], family: str) -> list[Finding]:
    """Hold the claim of a release, whose signature was verified, against what this device of `family` has given."""
    claim, run = manifest.provenance.privacy, manifest.provenance.training_run
    if manifest.family != family:
        return [_unknown(f"{manifest.release} is of another family than this device, which is of {family!r}")]
    of_run = [one for one in given if run is not None and one.run == run]
    told = f"this device answered {_times(len(of_run))} in run {run}, and opened {_sums(_opened(of_run))} with its shares"
    if claim is None:
        if of_run:
            return [_differs(f"{told}; {manifest.release} claims nothing about privacy")]
        return [
            _unknown(f"{manifest.release} claims nothing about privacy, and this device had no part in it")
        ]
    if not of_run:
        told = f"this device had no part in run {run}"
    before = [one for one in given if _is_before(one, of_run, manifest.created_at)]
    return [
        Finding(verdict=Verdict.AGREES, words=told),
        _check_training(manifest, of_run),
        _check_noise(claim, before),
        _check_participations(claim, before),
        _check_epsilon(claim, "of this run", claim.server.run_epsilon, of_run),
        _check_epsilon(claim, "of noised sums, all runs so far", _noised_epsilon(claim), before),
        *_check_quorum(claim, before),
        *_old_answers(before),
    ]


def _is_before(one: Given, of_run: Sequence[Given], created_s: float) -> bool:
    # By the order of this device's own charges where that tells: no two clocks are compared.
    return one.number <= of_run[-1].number if of_run else one.at_s <= created_s


def _check_training(manifest: Manifest, of_run: Sequence[Given]) -> Finding:
    rounds = {one.round_number for one in _opened(of_run) if one.kind in TRAINING_KINDS}
    words = (
        f"{len(rounds)} rounds of training were opened here, {manifest.provenance.rounds} are in the release"
    )
    return _agrees(words) if len(rounds) <= manifest.provenance.rounds else _differs(words)


def _check_noise(claim: PrivacyClaim, before: Sequence[Given]) -> Finding:
    bare = sorted({one.kind for one in _opened(before) if one.cost is None})
    if not bare:
        return _agrees("no sum without noise was opened here")
    kinds, told = ", ".join(bare), ", ".join(claim.noiseless_questions) or "none"
    words = f"sums without noise were opened here ({kinds}); the release names as such: {told}"
    if set(bare) <= set(claim.noiseless_questions) and claim.server.epsilon is None:
        return _agrees(f"{words}, and an unlimited epsilon_server")
    figure = (
        "an unlimited epsilon_server"
        if claim.server.epsilon is None
        else f"an epsilon_server of {claim.server.epsilon:.4g}"
    )
    return _differs(f"{words}, and {figure}")


def _check_participations(claim: PrivacyClaim, before: Sequence[Given]) -> Finding:
    opened = len(_opened(before))
    words = f"{opened} sums were opened here, the release counts {claim.participations} for the device with the most"
    return _agrees(words) if opened <= claim.participations else _differs(words)


def _check_epsilon(
    claim: PrivacyClaim, of_what: str, claimed: float | None, mine: Sequence[Given]
) -> Finding:
    costs = (one.cost for one in _opened(mine) if one.cost is not None)
    own = epsilon(sum(costs, PrivacyCost(rho=0.0)), claim.delta)
    if claimed is None:
        return _agrees(f"epsilon_server {of_what}: unlimited by the release, {own:.4g} of noised sums here")
    words = (
        f"epsilon_server {of_what}: {claimed:.4g} by the release, {own:.4g} here, at delta {claim.delta:g}"
    )
    return _agrees(words) if own <= claimed * _ROUNDED else _differs(words)


def _noised_epsilon(claim: PrivacyClaim) -> float | None:
    found = claim.server.noised_epsilon
    return claim.server.epsilon if found is None else found


def _check_quorum(claim: PrivacyClaim, before: Sequence[Given]) -> list[Finding]:
    sizes = [one.survivors for one in before if one.survivors is not None]
    if claim.quorum is None or not sizes:
        return []
    words = f"the smallest sum opened here was over {min(sizes)} devices, none over fewer than {claim.quorum} by the release"
    return [_agrees(words) if min(sizes) >= claim.quorum else _differs(words)]


def _old_answers(before: Sequence[Given]) -> list[Finding]:
    old = sum(not one.is_recorded for one in before)
    return [_unknown(f"{old} answers of an older agent, which recorded no sums")] if old else []


def _opened(given: Sequence[Given]) -> list[Given]:
    return [one for one in given if one.survivors is not None]


def _times(count: int) -> str:
    return f"{count} question{'s' * (count != 1)}"


def _sums(opened: Sequence[Given]) -> str:
    return f"{len(opened)} sum{'s' * (len(opened) != 1)}"


def _agrees(words: str) -> Finding:
    return Finding(verdict=Verdict.AGREES, words=words)


def _differs(words: str) -> Finding:
    return Finding(verdict=Verdict.DIFFERS, words=words)


def _unknown(words: str) -> Finding:
    return Finding(verdict=Verdict.UNKNOWN, words=words)
