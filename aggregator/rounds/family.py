"""How one model family learns: the ``[[family]]`` tables of aggregator.toml.

Each table is owned, and checked, by the module that uses it; here they are put together, and what one means for another is
refused in one sentence that says what to change.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from aggregator.errors import PrivacyPlanError
from aggregator.privacy.adaptive_clipping import clip_bit_noise, update_noise_multiplier
from aggregator.privacy.modes import SMALLEST_SUM
from aggregator.privacy.settings import PrivacySettings
from aggregator.rounds.assessment import ThresholdSettings
from aggregator.rounds.cohorts import CohortSettings
from aggregator.rounds.gate import GateSettings
from aggregator.rounds.int8_settings import Int8Settings
from aggregator.rounds.round_settings import RoundSettings
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from aggregator.triggers import TriggerSettings
from protocol.errors import TopicError
from protocol.names import check_name
from protocol.training import TrainingSettings

__all__ = ["FamilySettings"]


class FamilySettings(Struct, frozen=True, kw_only=True):
    """One family; `training` goes whole into its next release, by which devices then train, `rollout` to the fleet.

    `detector` says what judges in the next release, ``mixture`` or ``network``; None: what judges now.

    >>> FamilySettings(name="pump").cohort.minimum_devices
    3
    >>> FamilySettings(name="pump", cohort=CohortSettings(minimum_devices=2))
    Traceback (most recent call last):
    ValueError: cohort.minimum_devices = 2 is too few for a secure sum: of fewer than 3 devices each would learn the others' \
answers; raise it, or set secure_sum.enabled = false

    Raises:
        ValueError: tables that do not go together.
    """

    name: str
    detector: Literal["mixture", "network"] | None = None
    training: TrainingSettings = TrainingSettings()
    rounds: RoundSettings = RoundSettings()
    cohort: CohortSettings = CohortSettings()
    secure_sum: SecureSumSettings = SecureSumSettings()
    privacy: PrivacySettings = PrivacySettings()
    gate: GateSettings = GateSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    int8: Int8Settings = Int8Settings()
    trigger: TriggerSettings = TriggerSettings()
    rollout: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        try:
            check_name(self.name, "name")
        except TopicError as error:
            raise ValueError(str(error)) from None
        conflict = _sum_conflict(self)
        if conflict is not None:
            raise ValueError(conflict)

    @property
    def sums_are_exact(self) -> bool:
        """Whether sums of whole windows may be asked for: they drown in noise, and would tell what example-level privacy hides."""
        return self.privacy.noise is None and self.training.example_privacy is None

    def following(self, profile: TrainingSettings | None) -> FamilySettings:
        """The same family, trained as the profile of the release says that its devices run; None: as the file says."""
        return self if profile is None else msgspec.structs.replace(self, training=profile)

    @property
    def sum_policy(self) -> SumPolicy:
        """How secure rounds of this family are run."""
        return SumPolicy(
            norm_limit=self.training.settled().update_norm or 0.0,
            maximum_examples=self.training.maximum_examples,
            stages=self.secure_sum,
            privacy=self.privacy,
        )


_NOTHING_TO_DRAW_FOR: Final = (
    'cohort.sampling = "poisson" is for privacy.noise: sums without it are taken in groups that stay the same, and claim no ε that a draw'
    " could lower; leave it out, or set privacy.noise"
)


def _sum_conflict(family: FamilySettings) -> str | None:
    """Why the sums cannot be made like that; None where they can."""
    quorum, noise, is_secure = family.cohort.minimum_devices, family.privacy.noise, family.secure_sum.enabled
    if is_secure and quorum < SMALLEST_SUM:
        return (
            f"cohort.minimum_devices = {quorum} is too few for a secure sum: of fewer than {SMALLEST_SUM} devices each would"
            " learn the others' answers; raise it, or set secure_sum.enabled = false"
        )
    if noise is None:
        is_drawn = is_secure and family.cohort.sampling == "poisson"
        return _NOTHING_TO_DRAW_FOR if is_drawn else None
    if not is_secure:
        return "privacy.noise needs secure_sum.enabled = true: distributed noise protects nobody in plain"
    if noise.colluders >= quorum:
        return f"privacy.noise.colluders = {noise.colluders} leaves nobody honest among cohort.minimum_devices = {quorum}"
    if noise.adaptive_clip:
        try:
            update_noise_multiplier(noise.noise_multiplier, clip_bit_noise(quorum))
        except PrivacyPlanError as error:
            return f"privacy.noise: {error} (cohort.minimum_devices = {quorum})"
    return None
