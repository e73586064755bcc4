"""How one device trains: the settings that a family's file holds, a signed release carries, and the training loops of `models` take.

One struct all the way, so that a hyperparameter is written, checked and named in one place::

    [family.training] ─► TrainingSettings ─► Manifest.training, signed ─► edge_agent.learner ─► models.local_training.fit
                                                 │                                          └─► models.private_training.fit_privately
                                                 └ its SHA-256 is in each question

In a release it is the **training profile**: whoever asks a device chooses run, round and arrays, and nothing of how narrowly the
device looks at its windows. A device trains by the profile of a release that a person approved, and by no other.
Values are checked when they are read and when a struct is made by hand; what also depends on a family's other settings (noise on
the sums, the baseline) is the aggregator's to check.

Sources:
    FedAvg: McMahan et al., 2017, arXiv:1602.05629v4, Algorithm 1 (ClientUpdate).
    FedProx: Li et al., 2020, arXiv:1812.06127v5, Eq. (2), for the proximal term.
    DP-SGD: Abadi et al., 2016, arXiv:1607.00133v2, Algorithm 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta, Struct

__all__ = ["DEFAULT_TRUST_RADIUS", "MAXIMUM_EPOCHS", "ExamplePrivacy", "Optimizer", "TrainingSettings"]

Optimizer = Literal["sgd", "adam"]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Above = Annotated[float, Meta(gt=0, le=1e6)]

MAXIMUM_EPOCHS: Final = 1000
"""No question may keep a device busy without end."""

DEFAULT_TRUST_RADIUS: Final = 0.1
"""Of a release whose issuer had no reference data to measure it on. On PRONOSTIA it would be .08 to .2 (`models.trust_radius`)."""

_UPDATE_SHARE: Final = 0.2
"""Of the trust radius: five rounds in which all devices pull one way reach its edge."""


class ExamplePrivacy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DP-SGD on the device: hides whether any single window was among the device's own.

    Each window's gradient is clipped to an L2 norm of `clip_norm`, and noise of standard deviation `noise_multiplier` · `clip_norm`
    is added to their sum. Batches are Poisson samples: every window is in each with probability `sampling_rate`. There are
    `steps` of them, whatever the epochs and the batch size say.

    Raises:
        ValueError: a value out of its range, or the work of more than `MAXIMUM_EPOCHS`.
    """

    clip_norm: Above = 1.0
    noise_multiplier: Above
    sampling_rate: Annotated[float, Meta(gt=0, le=1)]
    steps: Annotated[int, Meta(ge=1, le=100_000)]

    def __post_init__(self) -> None:
        """Refuse what no training can follow, and what would not end."""
        _require_ranges(self)
        if self.steps * self.sampling_rate > MAXIMUM_EPOCHS:
            raise ValueError(
                f"steps = {self.steps} at sampling_rate = {self.sampling_rate:g} is the work of"
                f" {self.steps * self.sampling_rate:g} epochs; at most {MAXIMUM_EPOCHS} are done"
            )


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device does with its windows when it is asked to train.

    Attributes:
        epochs: passes over the windows, 1 to `MAXIMUM_EPOCHS`.
        batch_size: windows a step, ≥ 1; the last batch of an epoch may be smaller.
        learning_rate: of each step, > 0.
        optimizer: it starts anew with each round. Adam has β = (0.9, 0.999) and ε = 1e-8.
        momentum: SGD's, in [0, 1); 0 is plain descent.
        proximal: FedProx' μ ≥ 0, the pull towards the parameters that training started from; 0 is none.
        gradient_clip: longest gradient of a step in L2 norm, > 0, the pull included; None is no limit.
        maximum_examples: how many windows, the newest, count at most, ≥ 1; a device may have a lower limit of its own.
        example_privacy: DP-SGD in place of plain steps; None is none.
        maximum_staleness: rounds that an update may come late, ≥ 0; 0 drops what misses its own round.
        staleness_exponent: a late update counts (1 + rounds late)^-exponent, ≥ 0.
        trust_radius: how far, in L2 norm, parameters that a device is shown may lie from those of the approved release, > 0: beyond it a
            unit can be made that answers for one window alone. In a family's file None: that of the release so far, which its issuer measured.
        update_norm: longest update of one device in L2 norm, > 0; devices clip to it. None: a fifth of the trust radius.

    Raises:
        ValueError: a value out of its range, or settings that do not go together; the message says which to leave out.

    >>> TrainingSettings(learning_rate=0.1).batch_size
    32
    >>> TrainingSettings(optimizer="adam", momentum=0.9)
    Traceback (most recent call last):
    ValueError: momentum = 0.9 is for the optimizer sgd; adam has its own: leave momentum out
    """

    GONE: ClassVar[Mapping[str, str]] = {
        "method": "there is one way to train, and SCAFFOLD is gone: it let the server steer every step; leave method out, or try proximal"
    }

    epochs: Annotated[int, Meta(ge=1, le=MAXIMUM_EPOCHS)] = 2
    batch_size: Count = 32
    learning_rate: Above = 0.05
    optimizer: Optimizer = "sgd"
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    proximal: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    gradient_clip: Above | None = None
    maximum_examples: Count = 10_000
    example_privacy: ExamplePrivacy | None = None
    maximum_staleness: Annotated[int, Meta(ge=0, le=10_000)] = 4
    staleness_exponent: Annotated[float, Meta(ge=0, le=100)] = 0.5
    trust_radius: Above | None = None
    update_norm: Above | None = None

    def __post_init__(self) -> None:
        """Refuse what no training can follow."""
        _require_ranges(self)
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(
                f"momentum = {self.momentum:g} is for the optimizer sgd; adam has its own: leave momentum out"
            )
        if self.example_privacy is not None and self.gradient_clip is not None:
            raise ValueError(
                "example_privacy clips each window's gradient to its own clip_norm: leave gradient_clip out"
            )

    @property
    def is_settled(self) -> bool:
        """Whether it says everything that a profile has to."""
        return self.trust_radius is not None and self.update_norm is not None

    @property
    def sha256(self) -> str:
        """Names the profile: SHA-256 over everything here."""
        return hashlib.sha256(b"fedge/training-profile/v1" + msgspec.json.encode(self)).hexdigest()

    def settled(self, trust_radius: float = DEFAULT_TRUST_RADIUS) -> TrainingSettings:
        """The same with a trust radius (its own, else this one) and an update norm: a profile.

        >>> TrainingSettings().settled(0.5).update_norm
        0.1
        """
        radius = self.trust_radius or trust_radius
        norm = self.update_norm or _UPDATE_SHARE * radius
        return msgspec.structs.replace(self, trust_radius=radius, update_norm=norm)

    def clip_conflict(self, trust_radius: float | None = None) -> str | None:
        """Why the update norm holds nobody back within the trust radius (its own, else this one); None where it does, or is left open.

        >>> TrainingSettings(update_norm=10.0).clip_conflict(0.1)
        'update_norm = 10 is beyond the trust radius of 0.1: one update could cross all that may be learned; leave update_norm out, \
and 0.02 is taken, or give at most 0.1'
        """
        radius = self.trust_radius or trust_radius
        if self.update_norm is None or radius is None or self.update_norm <= radius:
            return None
        return (
            f"update_norm = {self.update_norm:g} is beyond the trust radius of {radius:g}: one update could cross all that may be learned;"
            f" leave update_norm out, and {_UPDATE_SHARE * radius:g} is taken, or give at most {radius:g}"
        )


def _require_ranges(settings: Struct) -> None:
    """Hold a struct that was made by hand to what its fields' types say; a decoder checks them by itself, but for infinity."""
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} = {value} must be a finite number")
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            raise ValueError(f"{field.name} = {value!r} cannot be used: {error}") from None
