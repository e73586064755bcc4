"""What a release says about the privacy of the devices it was learned from.

A claim is made by the aggregator from its ledger and travels in the signed manifest, so that whoever installs or audits
a release can read, years later, what was promised to whom, under which assumptions, and what was not promised. It is
a statement, not a proof: the ledger's digest in it is what an auditor compares with the ledger itself.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from protocol.limits import MAX_INTEGER

__all__ = ["Mode", "PrivacyClaim", "PrivacyFigure", "RoundTally"]

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Text = Annotated[str, Meta(max_length=1000)]


class Mode(StrEnum):
    """How the rounds of a family are run.

    ROBUST: sums without noise, of groups of 4 to 7 whose median moves the model; of one group where there are few devices. PRIVATE: one noised
    sum of the whole cohort. PLAIN: no masks, the aggregator sees each answer.
    """

    ROBUST = "robust"
    PRIVATE = "private"
    PLAIN = "plain"


class PrivacyFigure(Struct, frozen=True, kw_only=True):
    """One ε and whom it holds against. None means that nothing limits it: no differential privacy.

    `epsilon` counts every round of the family up to the release, `run_epsilon` those of the release's own run.
    `noised_epsilon` leaves out sums that carried no noise; where it differs from `epsilon` it is no guarantee.
    `idealised_epsilon` is what a continuous Gaussian of the same multiplier would give, for comparison.
    """

    adversary: Text
    adjacency: Text
    accountant: Text
    epsilon: Amount | None
    run_epsilon: Amount | None
    noised_epsilon: Amount | None = None
    idealised_epsilon: Amount | None = None


class RoundTally(Struct, frozen=True, kw_only=True):
    """How the family's rounds ended.

    `used`: the sum went on into a model. `withheld`: it was unmasked, yet not used. `open`: begun and never closed, e.g. by a
    power cut; counted as if used. `dropouts` devices were asked and are in no sum, at most `worst_dropouts` in one round; None where a figure
    rests on nobody knowing how many were in a sum.
    """

    used: Count = field(name="released")  # its name in every claim that is signed already
    void: Count
    withheld: Count
    open: Count
    dropouts: Count | None
    worst_dropouts: Count | None


class PrivacyClaim(Struct, frozen=True, kw_only=True):
    """The full claim of a release; `delta` goes with both figures.

    `noise_multiplier` is the lowest realised one (0: a sum without noise). `maximum_participations` is the cap that
    devices enforce themselves, `participations` the most any device has taken part so far. `ledger_sha256` is the last
    digest of the ledger's chain after `ledger_entries` entries. Where nobody may know how many were in a sum, `devices` are those that were drawn
    from and `participations` those of a device that was always drawn.

    `mode` says how rounds were run, `quorum` of how few devices a sum may have been unmasked, `groups` of how few sums a step of the model
    was made. `curious` is what an aggregator learns that follows the protocol, `lying` what one learns that does not, `poisoner` what a
    device that lies can do. All None or empty in a release of a build that did not say it.
    """

    format: Literal[1] = 1
    unit: Text = "device: everything one device has ever contributed to this model family"
    server: PrivacyFigure
    release: PrivacyFigure
    delta: Annotated[float, Meta(gt=0, lt=1)]
    mechanism: Text
    bits: Count
    clip: Amount | None
    noise_multiplier: Amount
    sampling: Text
    sampling_enforced_by: Text
    maximum_participations: Count | None
    participations: Count
    devices: Count
    colluders: Count
    rounds: RoundTally
    noiseless_questions: Annotated[tuple[Text, ...], Meta(max_length=100)]
    not_covered: Annotated[tuple[Text, ...], Meta(max_length=100)]
    ledger_entries: Count
    ledger_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    mode: Mode | None = None
    quorum: Count | None = None
    groups: Count | None = None
    curious: Text = ""
    lying: Text = ""
    poisoner: Text = ""

    @property
    def hides_sizes(self) -> bool:
        """Whether a figure rests on nobody knowing how many were in a sum: then no other number of a release may tell it either."""
        return self.rounds.dropouts is None
