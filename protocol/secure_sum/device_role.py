"""A device in a secure sum: what it says at each stage, and when it refuses to say anything.

::

    advertise ─► share_keys ─► mask ─► [confirm] ─► unmask          one instance, one round, each stage once
        └───────────┴───────────┴─────────┴───────────┴──► any refusal wipes the round's secrets

Pure: no I/O, clock or hidden randomness. One instance serves one attempt at one round; a retry takes a new one, so that
every secret is fresh. The device trusts the roster of identity keys it was handed (the fleet's, not the aggregator's) and
its own policy; everything the server says is checked against these two.

Not here: clipping, fixed point and noise (what the words mean), the road to the server.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS 2020; Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    MaskedInput,
    RevealedShares,
    SealedShares,
    ShareDelivery,
    SurvivorConfirmation,
    SurvivorList,
    UnmaskRequest,
)

__all__ = ["Budget", "DevicePolicy", "DeviceRole", "DeviceStage"]


class Budget(Protocol):
    """What the device may still give. Its state must survive restarts; see `edge_agent.privacy`."""

    def objection(self, announcement: Announcement) -> str | None:
        """Why the device may not take part in this round (what is spent, the limit, what would help), or None."""

    def spend(self, announcement: Announcement) -> None:
        """Record one participation, durably, before it returns: called right before the masked input is handed out."""


@dataclass(frozen=True, kw_only=True)
class DevicePolicy:
    """The floors below which a device takes no part, whatever the server says.

    Attributes:
        minimum_cohort: fewest devices in a sum, dropped ones not counted (the survivors must reach it too).
        minimum_threshold: fewest shares that may open one of the device's secrets.
        corrupt_fraction: share of the cohort the device assumes to collude with the server; with `secrecy_bits` it gives
            the smallest threshold the device accepts for the degree and cohort it is offered.
        secrecy_bits: the chance that enough colluders are among someone's neighbours stays below 2^-secrecy_bits.
        split_view_safe: demand thresholds that hold even if the server tells neighbours different stories.
        requires_confirmation: refuse rounds in which survivors are not compared.
        generators: mask generators this device runs well, best first.
    """

    minimum_cohort: int = 3
    minimum_threshold: int = 2
    corrupt_fraction: float = 0.2
    secrecy_bits: int = 40
    split_view_safe: bool = False
    requires_confirmation: bool = False
    generators: tuple[MaskGenerator, ...] = (MaskGenerator.AES_128_CTR, MaskGenerator.CHACHA20)


class DeviceStage(StrEnum):
    """The last stage a device has completed."""

    NEW = "new"
    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    CONFIRMED = "confirmed"
    REVEALED = "revealed"
    REFUSED = "refused"


class DeviceRole:
    """One device in one attempt at one round.

    Every method takes the server's message of a stage and returns the device's answer, or raises a RefusedRoundError whose
    message says what was wrong and what would be right; then the secrets are wiped and every further request is refused.

    Args:
        device: this device's id, as the roster knows it.
        identity_key: this device's long-lived P-256 key.
        roster: identity public keys of every device that may take part, from the fleet (not from the server of the sum).
        policy: the device's floors.
        budget: asked before anything is given.
        random_bytes: the operating system's generator outside of tests.
    """

    def __init__(
        self,
        device: DeviceId,
        *,
        identity_key: ec.EllipticCurvePrivateKey,
        roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
        policy: DevicePolicy,
        budget: Budget,
        random_bytes: RandomBytes,
    ) -> None:
        raise NotImplementedError

    @property
    def stage(self) -> DeviceStage:
        """The last stage completed."""
        raise NotImplementedError

    def advertise(self, announcement: Announcement) -> Advertisement:
        """Stage 1: make the round's secrets and sign their public keys.

        Raises:
            BudgetSpentError: participations or ε are spent.
            SplitViewError: the policy requires compared survivors and the round does not compare them.
            RepeatedStageError: this instance has already advertised.
        """
        raise NotImplementedError

    def share_keys(self, book: CohortBook) -> SealedShares:
        """Stage 2: check the cohort and the neighbours, leave each neighbour a share of both secrets.

        Raises:
            CohortTooSmallError, ThresholdTooLowError, UnknownDeviceError, AdvertisementError, GraphMismatchError,
            AnnouncementMismatchError, RepeatedStageError, StageOrderError: see `protocol.secure_sum.errors`.
        """
        raise NotImplementedError

    def mask(
        self, delivery: ShareDelivery, *, model_hash: bytes, config_hash: bytes, words: NDArray[np.uint32]
    ) -> MaskedInput:
        """Stage 3: hide `words` under the masks shared with every neighbour that shared its secrets.

        A seal that does not open counts as not having its shares; the mask is applied all the same, as the others do.

        Args:
            delivery: the neighbours' sealed shares.
            model_hash: SHA-256 of the model this device really answered with.
            config_hash: SHA-256 of the question it really answered.
            words: uint32 (word_count,), each meant modulo 2^word_bits (`fixed_point`); not changed.

        Raises:
            AnnouncementMismatchError: model or question are not the announced ones, or another number of words.
            TooFewSurvivorsError: fewer than max(threshold, floor) devices shared.
            BudgetSpentError, SurvivorMismatchError, RepeatedStageError, StageOrderError: see the errors.
        """
        raise NotImplementedError

    def confirm(self, survivors: SurvivorList) -> SurvivorConfirmation:
        """Between 3 and 4, only where survivors are compared: sign the list this device was shown.

        Raises:
            TooFewSurvivorsError, SurvivorMismatchError, RepeatedStageError, StageOrderError: see the errors.
        """
        raise NotImplementedError

    def unmask(self, request: UnmaskRequest) -> RevealedShares:
        """Stage 4: reveal shares of survivors' self-mask seeds and of dropped devices' mask keys; then forget everything.

        Raises:
            BothListsError, TooFewSurvivorsError, SurvivorMismatchError, SplitViewError, RepeatedStageError,
            StageOrderError: see the errors.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """Wipe the round's secrets; every further request is refused. For rounds that end without this device."""
        raise NotImplementedError
