"""What may be asked of this device without noise: how often, and over which devices. Pure rules; the account remembers.

A sum over a few devices is all that an aggregator sees, and two sums that hardly differ show what they differ by. So per kind of question
and **allowance** (what one snapshot of the windows may be asked; `edge_agent.privacy.snapshots`):

* a question whose answer follows from the windows (all but training) is revealed once, training ten times;
* training is summed over the same devices every time (its *companions*);
* over snapshots, a sum is over the same devices as each older one of its kind, or over at least three others, unless half of the
  windows are new since;
* masked answers, revealed or not, are counted: three for each time that may be revealed, forty in a day.

Noise (`charges.Cover`) spares a sum the rules about devices; within a finite ε of the owner's also all counts but that of the day. Where no ε
ends it, the counts stay: noise that is asked for often enough is averaged away. Refusals say nothing of windows: these rules see none.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import TRAINING_KINDS, Kind
from protocol.refusals import RefusalCode

__all__ = ["Standing", "allowed_reveals", "check_attempt", "check_day", "check_devices"]

Devices = frozenset[DeviceId]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What was asked of one kind so far, as far as it still matters.

    `attempts` are masked answers on the present allowance and `reveals` those that were revealed; who is within an ε does not count. Of
    sums without noise, `together` are the devices on this allowance, `earlier` those on older ones since which less than `renewed_share` of
    the windows is new.
    """

    kind: Kind
    attempts: int
    reveals: int
    together: tuple[Devices, ...]
    earlier: tuple[Devices, ...]


def allowed_reveals(kind: Kind, limits: OwnerLimits) -> int:
    """How often a kind of question may be revealed from one snapshot."""
    return limits.fits_per_snapshot if kind in TRAINING_KINDS else 1


def check_day(answers: int, limits: OwnerLimits) -> None:
    """Raise PrivacyRefusedError (BUDGET) where `answers` masked answers within a day are all that the owner gives."""
    if answers >= limits.answers_per_day:
        raise PrivacyRefusedError(
            RefusalCode.BUDGET,
            f"this device has given {answers} answers within 24 h, {limits.answers_per_day} are allowed (privacy.answers_per_day)",
        )


def check_attempt(standing: Standing, limits: OwnerLimits, *, is_counted: bool = False) -> None:
    """Raise PrivacyRefusedError (SNAPSHOT) where this kind has been answered from this snapshot as often as it may.

    `is_counted`: the attempt in question is among those of the standing.
    """
    reveals = allowed_reveals(standing.kind, limits)
    if standing.reveals >= reveals:
        raise PrivacyRefusedError(
            RefusalCode.SNAPSHOT,
            f"{standing.kind} was revealed {standing.reveals} times from this snapshot of the windows, {reveals} are allowed; {_next(limits)}",
        )
    attempts = limits.attempts_per_reveal * reveals
    if standing.attempts >= attempts + is_counted:
        raise PrivacyRefusedError(
            RefusalCode.SNAPSHOT,
            f"{standing.kind} was answered {standing.attempts} times from this snapshot of the windows, {attempts} are allowed "
            f"(privacy.attempts_per_reveal); {_next(limits)}",
        )


def check_devices(standing: Standing, asked: Devices, limits: OwnerLimits) -> None:
    """Raise PrivacyRefusedError (COHORT) where a sum over the devices `asked` and one that was revealed would tell what they differ by.

    Of a cohort before anything is masked, and of the survivors before a share leaves: the shares of the others suffice to open a sum, so
    a device masks nothing for a cohort in which they could open one over other devices than its companions.
    """
    older = standing.earlier
    if standing.kind in TRAINING_KINDS and not limits.fixed_companions:
        older += standing.together
    elif standing.kind in TRAINING_KINDS:
        for companions in standing.together:
            if asked != companions:
                raise PrivacyRefusedError(
                    RefusalCode.COHORT,
                    f"from this snapshot {standing.kind} is summed with {_named(companions)} only (privacy.fixed_companions), "
                    f"asked was a sum over {_named(asked)}; {_next(limits)}",
                )
    least = limits.fewest_exchanged
    for devices in older:
        if 0 < len(asked ^ devices) < least:
            raise PrivacyRefusedError(
                RefusalCode.COHORT,
                f"a sum over {_named(asked)} differs from one over {_named(devices)}, given from much the same windows, by "
                f"{len(asked ^ devices)} devices; the same devices or {least} others are asked for (privacy.fewest_exchanged)",
            )


def _next(limits: OwnerLimits) -> str:
    return (
        f"a new snapshot is taken after {limits.snapshot_windows} new windows and {limits.snapshot_every_s / 3600:.3g} h "
        "(privacy.snapshot_windows, privacy.snapshot_every_s)"
    )


def _named(devices: Devices, most: int = 8) -> str:
    names = ", ".join(sorted(devices)[:most])
    return f"{names} and {len(devices) - most} more" if len(devices) > most else names
