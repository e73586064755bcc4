"""A claim in words for a data-protection officer: what is promised to whom, on what it rests, what is not promised.

Words only, from the claim's own fields: two readers of the same claim read the same text, with or without a ledger.
"""

from __future__ import annotations

import math

from protocol.privacy_claim import Mode, PrivacyClaim, PrivacyFigure

__all__ = ["explain"]


def explain(claim: PrivacyClaim, title: str) -> str:
    """The claim as plain text, lines of any length; `title` says of which family or release."""
    lines = [
        f"Privacy of {title}",
        "",
        "What is protected",
        f"  The unit is the {claim.unit}.",
        *_learned(claim),
        "",
        "What the sums themselves may still give away",
        *_figure("The aggregator itself (epsilon_server)", claim.server, claim),
        *_figure("Whoever sees released models (epsilon_release)", claim.release, claim),
        "",
        "On what this rests",
        f"  Mechanism: {claim.mechanism}.",
        f"  Noise: {_noise(claim)}",
        f"  Cohorts: {claim.sampling}. {_sentence(claim.sampling_enforced_by)}",
        f"  Participation: {_participation(claim)}",
        f"  Rounds: {_rounds(claim)}",
        f"  Colluding devices allowed for: {claim.colluders}.",
        f"  Record: {_record(claim)}",
        "",
        "What is NOT covered",
        *(f"  - {_sentence(item)}" for item in claim.not_covered),
    ]
    return "\n".join(lines) + "\n"


def _learned(claim: PrivacyClaim) -> list[str]:
    if claim.mode is None:
        return [
            "  Which way its rounds were run the claim does not say: it is of an older build, or there were none."
        ]
    return [
        f"  Its rounds were run in mode {claim.mode.value!r}.",
        f"    An aggregator that follows the protocol learns {_sentence(claim.curious, keep=True)}",
        f"    One that lies learns {_sentence(claim.lying, keep=True)}",
        f"    Poisoned answers: {_sentence(claim.poisoner, keep=True)}",
    ]


def _figure(heading: str, figure: PrivacyFigure, claim: PrivacyClaim) -> list[str]:
    lines = [f"  {heading}", f"    Who: {figure.adversary}."]
    if figure.epsilon is None:
        why = (
            "answers were sent without masks"
            if claim.mode is Mode.PLAIN
            else f"sums without noise were unmasked ({', '.join(claim.noiseless_questions) or 'see the ledger'})"
        )
        lines.append(f"    No differential privacy: epsilon is unlimited, because {why}.")
        if figure.noised_epsilon:
            lines.append(
                f"    Setting those sums aside it would be {figure.noised_epsilon:.3g}; that is a comparison, not a promise."
            )
        return lines
    lines += [
        f"    epsilon = {figure.epsilon:.3g} at delta = {claim.delta:g}, over every round so far; {_own(figure)} by this release's own run.",
        f"    {_meaning(figure.epsilon)}",
        f"    Compared are two worlds in which {figure.adjacency}. Computed by: {figure.accountant}.",
    ]
    return lines


def _own(figure: PrivacyFigure) -> str:
    return "unlimited" if figure.run_epsilon is None else f"{figure.run_epsilon:.3g}"


def _meaning(epsilon: float) -> str:
    """ε as a guess: at even odds before, at most e^ε/(1 + e^ε) right afterwards (Wood et al., 2018, in words)."""
    best = 1.0 / (1.0 + math.exp(-epsilon))
    if best >= 0.995:
        return (
            "As a limit on one guess whether a device contributed this is weak: more than 99 % right is not ruled out. "
            "It limits what patient attackers learn, and it adds up honestly."
        )
    return f"Somebody who could only toss a coin whether a device contributed could become right in at most {100 * best:.0f} % of cases."


def _noise(claim: PrivacyClaim) -> str:
    if not claim.noise_multiplier:
        return "at least one sum carried none."
    return f"at least {claim.noise_multiplier:.3g} times what one device can change, in every sum; answers are clipped to {claim.clip:g}."


def _record(claim: PrivacyClaim) -> str:
    if claim.mode is Mode.PLAIN:
        return "none; a ledger is kept of sums under masks."
    return f"the ledger's first {claim.ledger_entries} entries, whose last digest is {claim.ledger_sha256}."


def _participation(claim: PrivacyClaim) -> str:
    cap = (
        "no cap is set"
        if claim.maximum_participations is None
        else f"each device stops by itself after {claim.maximum_participations}"
    )
    if claim.hides_sizes:
        return f"{claim.devices} devices were drawn from, each at most {claim.participations} times; {cap}."
    return f"{claim.devices} devices gave answers, one of them at most {claim.participations} times; {cap}."


def _rounds(claim: PrivacyClaim) -> str:
    r = claim.rounds
    missing = (
        "how many answers were missing is not said, for it would tell who was drawn."
        if r.dropouts is None
        else f"{r.dropouts} answers missing through dropouts, at most {r.worst_dropouts} in one round."
    )
    text = f"{r.used} used, {r.void} void (nothing was unmasked), {r.withheld} withheld (unmasked, not used); {missing}"
    if claim.quorum is not None:
        text += f" No sum was unmasked of fewer than {claim.quorum} devices."
    return f"{text} {r.open} never closed, counted as used." if r.open else text


def _sentence(text: str, *, keep: bool = False) -> str:
    return f"{text if keep else text[:1].upper() + text[1:]}."
