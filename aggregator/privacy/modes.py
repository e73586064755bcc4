"""What an aggregator learns, and what a poisoner can do, in one exact sentence for each way in which rounds are run.

Words and the rule that picks them, from what the ledger holds: nobody's intention. `protocol.privacy_claim.Mode` names the ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from aggregator.privacy.history import HeldRound
from protocol.privacy_claim import Mode
from protocol.secure_sum.planner import PlanRequest, plan

__all__ = [
    "FEWEST_GROUPS",
    "SMALLEST_SUM",
    "LearnedBy",
    "fewest_groups",
    "lowest_quorum",
    "mode_of",
    "who_learns_what",
]

FEWEST_GROUPS: Final = 3
"""Of fewer the median is the mean: a liar in one of two has half a voice."""

SMALLEST_SUM: Final = 3
"""Devices of a sum; devices refuse smaller ones by themselves (`protocol.secure_sum.device_rules.DevicePolicy`)."""


@dataclass(frozen=True, kw_only=True)
class LearnedBy:
    """One sentence each; without its full stop, as all of a claim's texts."""

    curious: str
    lying: str
    poisoner: str


def mode_of(seen: Sequence[HeldRound]) -> Mode | None:
    """The way in which these rounds were run; None where there was none. One sum without noise makes the family robust, not private."""
    if not seen:
        return None
    return Mode.PRIVATE if all(held.multiplier for held in seen) else Mode.ROBUST


def lowest_quorum(seen: Sequence[HeldRound]) -> int | None:
    """Fewest devices of which a sum was, or may have been, unmasked; of noised sums the fewest they were planned for."""
    return min((held.quorum for held in seen), default=None)


def fewest_groups(seen: Sequence[HeldRound]) -> int | None:
    """Fewest sums that one step of the model was made of; 1 where the whole cohort was one."""
    ids = [held.opened.id for held in seen if held.is_used]
    steps = Counter((one.run, one.question, one.number, one.attempt) for one in ids)
    return min(steps.values(), default=None)


def who_learns_what(mode: Mode, *, quorum: int, multiplier: float, colluders: int, groups: int) -> LearnedBy:
    """The sentences of a mode.

    Args:
        mode: of the rounds.
        quorum: `lowest_quorum`.
        multiplier: lowest noise of a sum over what one device can change.
        colluders: devices whose noise the aggregator may know.
        groups: `fewest_groups`.
    """
    alone = "no protection against a poisoner: all devices are one group, and what one of them sends moves the only sum (each update within its clip)"
    match mode:
        case Mode.PLAIN:
            return LearnedBy(
                curious="every answer of every device, one by one: there are no masks",
                lying="the same, to each question that the device's own policy lets through",
                poisoner=alone,
            )
        case Mode.PRIVATE:
            weak = "" if multiplier >= 1 else "; noise below 1 is averaged away within some rounds"
            return LearnedBy(
                curious=(
                    f"sums over at least {quorum} devices that carry noise of {multiplier:.3g} times what one device can change, and what"
                    f" they say of one device is bounded by epsilon_server{weak}"
                ),
                lying=(
                    "no more, whatever it asks: devices draw the noise, clip and count for themselves, and stop at their own limit; but each"
                    f" device in its hand beyond the {colluders} allowed for takes its share of the noise away"
                ),
                poisoner=alone,
            )
        case Mode.ROBUST:
            return LearnedBy(
                curious=(
                    f"exact sums over groups of at least {quorum} devices and nothing else of a single one; no number bounds what such a sum"
                    " says of a device"
                ),
                lying=(
                    "the same for questions from the closed list that each device's policy lets through: from training, averages over"
                    " hundreds of windows inside the trust region; of scale, covariance, curve and assessment each group's exact sum, once"
                    f" a snapshot of the windows; and with {_opened_by(quorum)}"
                ),
                poisoner=alone
                if groups < FEWEST_GROUPS
                else f"a device moves the sum of its own group, and the model follows the median of {groups} groups or more",
            )
        case _:
            assert_never(mode)


def _opened_by(devices: int) -> str:
    """How many false members read the rest of a group: with each of the others they are a sum that devices unmask, the rest called lost."""
    others = devices - 1
    smallest = SMALLEST_SUM
    if devices >= SMALLEST_SUM:
        smallest = max(smallest, plan(PlanRequest(cohort=devices, split_view_safe=True)).threshold)
    false = min(smallest - 1, others)
    whom = "the last one" if false == others else "each of the others"
    return f"{false} of a group's {devices} devices in its hand everything that {whom} answers"
