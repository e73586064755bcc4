"""What the owner of a device allows to be learned from it, and how often: the `[privacy]` table of agent.toml.

Enforced on the device, whatever an aggregator announces. A run may announce stricter `ChargeLimits`, never looser ones. Every limit
has a default that protects a device whose owner never heard of it; a demonstration that cannot wait a day sets its own where
everybody reads them.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = ["IMPLIED_EPSILON", "ChargeLimits", "OwnerLimits"]

IMPLIED_EPSILON: Final = 8.0
"""What noised answers may cost in all where an owner names no figure: the weak end of what is used in practice, and finite."""

Positive = Annotated[int, Meta(ge=1)]
Above = Annotated[float, Meta(gt=0)]


class ChargeLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how much, over the whole life of the device; an owner's, or a run's. None is no limit."""

    maximum_participations: int | None = None
    """Answers to rounds."""
    maximum_epsilon: Above | None = None
    """ε that all answers together may cost. None: rounds without noise, which no ε describes, are answered too."""
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-6
    """Goes with every ε; below one over the number of devices in the fleet."""
    require_noise: bool = False
    """Refuse sums without differential privacy even where no `maximum_epsilon` is set."""

    def __post_init__(self) -> None:
        """Refuse an ε that limits nothing."""
        if self.maximum_epsilon is not None and not math.isfinite(self.maximum_epsilon):
            raise ValueError(
                f"maximum_epsilon = {self.maximum_epsilon} is not valid: use a finite number, or leave it out"
            )


class OwnerLimits(ChargeLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this device gives to training at most, and how narrow and how often it may be asked; whatever an aggregator asks."""

    maximum_participations: Positive = 10_000
    """Answers in all. Ten a week for twenty years fit; a server that asks without end does not."""
    maximum_epsilon: Above | None = None
    """What all answers together may cost; refuses sums without noise. None: 8 under `require_noise`, where there is always a limit."""
    delta: Annotated[float, Meta(gt=0, le=0.01)] = 1e-6
    """Goes with every ε of this device, whatever δ a run announces; below one over the number of devices in the fleet."""
    require_noise: bool = False
    """Answer sums with noise only, of `minimum_noise_multiplier` at least, and until `maximum_epsilon` is spent."""
    minimum_noise_multiplier: Annotated[float, Meta(ge=0.1, le=1000)] = 1.0
    """Noise over clip that counts as noise, realised with the fewest survivors. At 1, what one round shows of a window has a cosine of
    .11 with it, at .3 of .37, at .1 of .79. Less is refused under `require_noise`, and is otherwise no reason to answer more."""
    colluding_share: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    """Share of a cohort that this device takes to be the aggregator's: the noise must suffice without theirs, however few are announced."""
    minimum_windows: Annotated[int, Meta(ge=5)] = 32
    """Fewest windows that answers are made from: of fewer, a sum over a small group says much about each."""
    answers_per_day: Positive = 40
    """Masked answers in 24 h that this device counted. A refit takes fourteen, with ten rounds of training; retries count."""
    attempts_per_reveal: Positive = 3
    """Masked answers to one kind of question for each time it may be revealed: some rounds are lost on the road."""
    fits_per_snapshot: Positive = 10
    """Rounds of training revealed from one snapshot; what is read in forty rounds is nearly four times as clear as in one. Every
    other kind of question is revealed once."""
    fixed_companions: bool = True
    """Rounds of training from one snapshot are summed over the same devices each time: sums over changing ones are equations, and
    enough of them are solved for each device."""
    maximum_trust_radius: Above = 1.0
    """Widest trust radius of a release that this device trains near, in L2 norm of its parameters. On recordings of bearings units that
    see one window alone begin .29 to .73 from a release; a release that says more is not measured here, and not believed."""
    fewest_exchanged: Positive = 3
    """Devices by which two sums of one kind must differ where they are not over the same: the difference is a sum, too. 3 is the
    smallest cohort. A very large number asks for the same devices every time."""
    renewed_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Share of a snapshot's windows that must be new for an older sum over other devices to matter no more."""
    snapshot_windows: Positive = 32
    """New windows before a new snapshot is taken: what two snapshots differ by is a sum over as many."""
    snapshot_every_s: Annotated[float, Meta(gt=0, le=31_622_400)] = 86_400.0
    """Seconds between two snapshots, by a clock that nobody sets: one refit a day."""

    @property
    def epsilon_cap(self) -> float | None:
        """What noised answers may cost in all; None where neither a figure nor noise is asked for."""
        return (
            IMPLIED_EPSILON if self.maximum_epsilon is None and self.require_noise else self.maximum_epsilon
        )
