"""What a family says about differential privacy: the noise of its sums, and what it may spend over its whole life."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from aggregator.errors import PrivacyPlanError
from aggregator.privacy.adaptive_clipping import AdaptiveClip

__all__ = ["FamilyBudget", "NoiseSettings", "PrivacySettings"]

Above = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]


class FamilyBudget(Struct, frozen=True, kw_only=True):
    """Limits for a family's whole life and how they are counted; a limit of None is no limit.

    Written into the ledger with each plan, so that the ledger alone explains a figure.

    Attributes:
        delta: goes with every ε; should be below one over the number of devices.
        epsilon_server: towards the aggregator; also told to the devices, which enforce it themselves.
        epsilon_release: towards whoever sees the releases.
        maximum_participations: to how many sums a device gives; devices are told, and count themselves.

    Raises:
        ValueError: a limit that means nothing.
    """

    delta: Fraction = 1e-6
    epsilon_server: Above | None = None
    epsilon_release: Above | None = None
    maximum_participations: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        """Refuse limits that mean nothing, also in a struct that was made by hand."""
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be between 0 and 1, e.g. 1e-6, got {self.delta}")
        for name in ("epsilon_server", "epsilon_release", "maximum_participations"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, or left out for no limit, got {limit}")


class NoiseSettings(Struct, frozen=True, kw_only=True):
    """Distributed noise on the sums of a family.

    Attributes:
        noise_multiplier: noise of a sum over the `clip` of one update, with the quorum in the sum.
        assessment_noise_multiplier: the evaluation's, whose histograms need a large cohort under strong noise; None: the same.
        clip: L2 norm of one device's mean update, where it starts if it adapts.
        adaptive_clip: lets `clip` follow the `clip_quantile` of the updates' norms from round to round, at no further cost; it
            needs a quorum above 10 · `noise_multiplier` devices.
        clip_quantile: share of the updates that shall be within the clip.
        bits: size of a masked word.
        mechanism: of the noise that devices draw.
        colluders: devices whose noise the aggregator may know.

    Raises:
        ValueError: a clip that could never settle.
    """

    noise_multiplier: Above
    assessment_noise_multiplier: Above | None = None
    clip: Above = 1.0
    adaptive_clip: bool = False
    clip_quantile: Fraction = 0.5
    bits: Annotated[int, Meta(ge=8, le=32)] = 20
    mechanism: Literal["discrete-gaussian", "skellam"] = "discrete-gaussian"
    colluders: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what would never settle."""
        try:
            _ = self.adaptive
        except PrivacyPlanError as error:
            raise ValueError(str(error)) from None

    @property
    def adaptive(self) -> AdaptiveClip | None:
        """The clip that follows, at its start; None where it is fixed."""
        return AdaptiveClip(clip=self.clip, quantile=self.clip_quantile) if self.adaptive_clip else None


class PrivacySettings(Struct, frozen=True, kw_only=True):
    """``[family.privacy]``: without `noise` sums are exact, and ε is unlimited.

    Raises:
        ValueError: a limit on ε that exact sums cannot keep.
    """

    noise: NoiseSettings | None = None
    budget: FamilyBudget = FamilyBudget()

    def __post_init__(self) -> None:
        """Refuse limits that nothing would keep."""
        if self.noise is None and (self.budget.epsilon_server, self.budget.epsilon_release) != (None, None):
            raise ValueError(
                "budget.epsilon_server and epsilon_release cannot be kept without noise.noise_multiplier: exact sums cost"
                " unlimited epsilon"
            )
