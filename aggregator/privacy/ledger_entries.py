"""What the privacy ledger records: runs planned, rounds opened, rounds closed.

Values only, as JSON through msgspec. A round is one question to one cohort in one attempt. Nothing here is secret beyond the names of
the devices that took part: no update, no key, no noise.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from aggregator.privacy.settings import FamilyBudget
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_cost import RoundNoise

__all__ = [
    "Entry",
    "FixedCohort",
    "Outcome",
    "PoissonCohort",
    "RoundClosed",
    "RoundId",
    "RoundOpened",
    "RunPlanned",
    "Sampling",
]

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]


class PoissonCohort(Struct, frozen=True, kw_only=True, tag="poisson"):
    """Every device of `population` was in with probability `rate`, independently, and nobody outside knows who was.

    Draws of more than `largest` were drawn again, and their sums carry the noise of `largest` devices whoever is in them, so that nobody
    outside can tell how many were (`aggregator.privacy.poisson_draws`). None: of an older build, which hid no sizes.
    """

    rate: Annotated[float, Meta(gt=0, le=1)]
    population: Positive
    largest: Positive | None = None


class FixedCohort(Struct, frozen=True, kw_only=True, tag="fixed"):
    """`size` devices were drawn without replacement from `population`; all of them where the two are equal.

    `is_secret`: the draw came from randomness that nobody outside can know or repeat. A draw from a seed that a release or a run id gives
    away hides nobody, so it is not secret unless somebody says so.
    """

    size: Positive
    population: Positive
    is_secret: bool = False


Sampling = PoissonCohort | FixedCohort


class Outcome(StrEnum):
    """How a round ended.

    USED: the sum went on into the model. WITHHELD: it was unmasked, or may have been, and thrown away. VOID: nobody asked devices to
    unmask, so there was no sum to see and the round cost nothing.
    """

    # The value is in ledgers that are written already, and every one of their entries is under a digest.
    USED = "released"
    WITHHELD = "withheld"
    VOID = "void"


class RoundId(Struct, frozen=True, kw_only=True, order=True):
    """Names one attempt of one question: `question` is ``train.fit`` or ``evaluate.assess``; both numbers count from 1.

    Of an attempt in several groups each has its own sum, and its own entries: `group` counts them from 1. 0: the cohort was one.
    """

    run: RunId
    question: str
    number: Positive
    attempt: Positive
    group: Count = 0

    def __str__(self) -> str:
        """For people: ``run-7 train.fit 3.1``."""
        return f"{self.run} {self.question} {self.number}.{self.attempt}" + (
            f" group {self.group}" if self.group else ""
        )


class RunPlanned(Struct, frozen=True, kw_only=True, tag="run_planned"):
    """A run was admitted: its rounds as planned fit into the family's budget. An ε of None is unlimited."""

    run: RunId
    family: FamilyName
    at: float
    budget: FamilyBudget
    rounds: Count
    epsilon_server: float | None
    epsilon_release: float | None


class RoundOpened(Struct, frozen=True, kw_only=True, tag="round_opened"):
    """Devices are about to be asked for their masked inputs. From here on the round counts until it is closed as void.

    `salt` is random: a release tells the chain's digest, and whoever guesses who was asked must not be able to try the guess on it.
    """

    id: RoundId
    family: FamilyName
    at: float
    noise: RoundNoise
    sampling: Sampling
    cohort: tuple[DeviceId, ...]
    salt: str = ""


class RoundClosed(Struct, frozen=True, kw_only=True, tag="round_closed"):
    """How it ended: `participants` are in the sum; `clip_bits` is the noisy number of them within the clip."""

    id: RoundId
    at: float
    outcome: Outcome
    participants: tuple[DeviceId, ...] = ()
    clip_bits: float | None = None
    next_clip: float | None = None
    reason: str = ""


Entry = RunPlanned | RoundOpened | RoundClosed
