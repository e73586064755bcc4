"""Whether a release claims what its ledger holds: each statement worked out anew and set beside the signed one.

::

    manifest ─► claim, run, family ─┐
    ledger  ─► first n entries ─────┴─► the same claim, made again ─► one `Finding` a statement

Pure. It believes the ledger's file only as far as its chain of digests goes: a ledger that was forged as a whole, with all its digests, agrees
with no claim that was signed before. What it cannot see is an aggregator that lied to its ledger from the start; a device's own
account is the witness against that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from aggregator.errors import LedgerError
from aggregator.privacy.claims import make_claim
from aggregator.privacy.history import HeldRound, History
from aggregator.privacy.ledger import LedgerHead
from aggregator.privacy.ledger_entries import Entry, Outcome, RoundOpened
from aggregator.privacy.settings import FamilyBudget
from protocol.manifest import Manifest
from protocol.names import FamilyName, RunId
from protocol.privacy_claim import PrivacyClaim, PrivacyFigure
from protocol.questions import FIT, REFIT_KINDS

__all__ = ["Finding", "verify"]

CLOSE: Final = 1e-6
"""Relative: the same arithmetic on another machine."""

CLOCK_SLACK_S: Final = 60.0
"""A clock that is set right steps by so much without anybody meaning harm."""

_RECORDED: Final = (
    ("mechanism", "mechanism"),
    ("bits", "bits"),
    ("clip", "clip"),
    ("colluders", "colluders"),
    ("sampling", "sampling"),
    ("sampling_enforced_by", "who draws"),
    ("noiseless_questions", "questions without noise"),
    ("maximum_participations", "cap on participations"),
    ("participations", "most participations of a device"),
    ("devices", "devices"),
)
_SAID: Final = ("mode", "quorum", "groups", "curious", "lying", "poisoner")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One statement: what the release says and what the ledger says; `agrees` where the release promises no more."""

    statement: str
    said: object
    found: object
    agrees: bool

    def __str__(self) -> str:
        """For people, one line."""
        if self.agrees:
            return f"agrees          {self.statement}: {self.said}"
        return f"does NOT agree  {self.statement}: the release says {self.said}, the ledger {self.found}"


def verify(manifest: Manifest, claim: PrivacyClaim, entries: Sequence[Entry], digest: str) -> list[Finding]:
    """Every statement of a release that a ledger can bear out.

    Args:
        manifest: of the release, its signature checked.
        claim: the manifest's own.
        entries: of the whole ledger, its chain checked.
        digest: of the chain after the claim's number of entries, in hex; empty where there are fewer.
    """
    family, run = FamilyName(manifest.family), RunId(manifest.provenance.training_run or "")
    first = list(entries[: claim.ledger_entries])
    found = [
        _same("entries of the ledger", claim.ledger_entries, len(first)),
        _same("digest of the ledger", claim.ledger_sha256, digest),
        _time_order(first, manifest.created_at),
        _left_out(entries, claim.ledger_entries, manifest),
    ]
    history = History()
    try:
        for entry in first:
            history.check(entry)
            history.add(entry)
    except LedgerError as error:
        return [
            *found,
            Finding(statement="entries that fit together", said="yes", found=str(error), agrees=False),
        ]
    rounds = history.rounds(family)
    plan = history.planned(run)
    budget = plan.budget if plan is not None else FamilyBudget(delta=claim.delta)
    head = LedgerHead(entries=claim.ledger_entries, sha256=claim.ledger_sha256)
    again = make_claim(rounds, run, budget, head)
    return [
        *found,
        *_provenance(manifest, rounds, again),
        _same("delta", claim.delta, budget.delta),
        *_figures("epsilon_server", claim.server, again.server),
        *_figures("epsilon_release", claim.release, again.release),
        _no_more("noise over what one device can change", claim.noise_multiplier, again.noise_multiplier),
        *(_same(words, getattr(claim, name), getattr(again, name)) for name, words in _RECORDED),
        *_quorums(claim, rounds),
        *(
            _same(name, getattr(claim, name), getattr(again, name))
            for name in _SAID
            if claim.mode is not None  # an older build did not say
        ),
        _caveats(claim, again),
    ]


def _provenance(manifest: Manifest, rounds: Sequence[HeldRound], again: PrivacyClaim) -> Iterator[Finding]:
    provenance, claim = manifest.provenance, manifest.provenance.privacy
    assert claim is not None  # noqa: S101 - `verify` was called with it
    own = [held for held in rounds if held.opened.id.run == provenance.training_run]
    yield Finding(
        statement="the run of the release asked devices of its family",
        said=f"{provenance.training_run} of {manifest.family!r}",
        found=f"{len(own)} rounds of that run and family",
        agrees=bool(own),
    )
    steps = {held.opened.id.number for held in own if held.is_used and held.opened.id.question == FIT}
    yield _same("rounds of training", provenance.rounds, len(steps))
    if again.hides_sizes:
        yield _same("devices drawn from", provenance.participants, again.devices)
    else:
        # A sum that was unmasked and then found to be of no use is used in the ledger, and not in the release.
        learning = [held for held in own if held.is_used and held.opened.id.question in {FIT, *REFIT_KINDS}]
        most = {device for held in learning for device in held.participants}
        yield Finding(
            statement="participants",
            said=provenance.participants,
            found=f"at most {len(most)}",
            agrees=provenance.participants <= len(most),
        )
    for name in ("used", "void", "withheld", "open", "dropouts", "worst_dropouts"):
        yield _same(
            f"rounds, {name.replace('_', ' ')}", getattr(claim.rounds, name), getattr(again.rounds, name)
        )


def _figures(name: str, said: PrivacyFigure, found: PrivacyFigure) -> Iterator[Finding]:
    yield _no_less(name, said.epsilon, found.epsilon)
    yield _no_less(f"{name} of the run", said.run_epsilon, found.run_epsilon)
    yield _no_less(f"{name} of the noised sums", said.noised_epsilon, found.noised_epsilon)
    yield _same(f"{name}, what is compared", said.adjacency, found.adjacency)


def _quorums(claim: PrivacyClaim, rounds: Sequence[HeldRound]) -> Iterator[Finding]:
    """Every sum that was used: enough devices, enough noise, and only of those who were asked."""
    used = [held for held in rounds if held.closed is not None and held.closed.outcome is Outcome.USED]
    fewest = claim.quorum or 1
    small = [str(held.opened.id) for held in used if len(held.participants) < max(held.quorum, fewest)]
    quiet = [
        str(held.opened.id)
        for held in used
        if held.opened.noise.mechanism != "none" and held.multiplier < claim.noise_multiplier * (1 - CLOSE)
    ]
    for statement, bad in (("every sum used had its quorum", small), ("every sum used had its noise", quiet)):
        said = f"{len(used)} sums"
        yield Finding(statement=statement, said=said, found=f"not {', '.join(bad[:3])}", agrees=not bad)


def _time_order(entries: Sequence[Entry], created_at: float) -> Finding:
    times = [*(entry.at for entry in entries), created_at]
    late = next((n for n, (a, b) in enumerate(pairwise(times), 1) if b < a - CLOCK_SLACK_S), None)
    ahead = "all in order"
    if late is not None:
        after = "the release" if late == len(entries) else f"entry {late + 1}"
        ahead = f"{after} is {times[late - 1] - times[late]:.0f} s before entry {late}"
    return Finding(statement="order of time", said="all in order", found=ahead, agrees=late is None)


def _left_out(entries: Sequence[Entry], count: int, manifest: Manifest) -> Finding:
    """Rounds of the family that were opened for this release, and yet after what the claim was made from."""
    family, run = FamilyName(manifest.family), manifest.provenance.training_run
    later = [
        str(entry.id)
        for entry in entries[count:]
        if isinstance(entry, RoundOpened)
        and entry.family == family
        and (entry.id.run == run or entry.at < manifest.created_at - CLOCK_SLACK_S)
    ]
    return Finding(
        statement="no round before the release is left out",
        said="none",
        found=f"{len(later)}: {', '.join(later[:3])}",
        agrees=not later,
    )


def _caveats(claim: PrivacyClaim, again: PrivacyClaim) -> Finding:
    missing = [item for item in again.not_covered if item not in claim.not_covered]
    return Finding(
        statement="what is not covered",
        said=f"{len(claim.not_covered)} caveats",
        found=f"also: {'; '.join(missing)}",
        agrees=not missing,
    )


def _same(statement: str, said: object, found: object) -> Finding:
    if isinstance(said, float) and isinstance(found, float):
        return Finding(
            statement=statement, said=said, found=found, agrees=math.isclose(said, found, rel_tol=CLOSE)
        )
    return Finding(statement=statement, said=said, found=found, agrees=said == found)


def _no_less(statement: str, said: float | None, found: float | None) -> Finding:
    """An ε: None is unlimited, and more than what the ledger shows promises less."""
    promised, real = (math.inf if value is None else value for value in (said, found))
    agrees = promised >= real * (1 - CLOSE) - CLOSE
    return Finding(statement=statement, said=_epsilon(promised), found=_epsilon(real), agrees=agrees)


def _no_more(statement: str, said: float, found: float) -> Finding:
    return Finding(
        statement=statement, said=f"{said:.6g}", found=f"{found:.6g}", agrees=said <= found * (1 + CLOSE)
    )


def _epsilon(value: float) -> str:
    return "unlimited" if math.isinf(value) else f"{value:.6g}"
