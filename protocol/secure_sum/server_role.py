"""The server in a secure sum: collects what the devices say stage by stage, and ends with the sum or with nothing.

::

    accept_advertisement* ─► close_advertising ─► accept_shares* ─► close_sharing ─► accept_masked_input* ─► close_masking
        [─► accept_confirmation* ─► close_confirming] ─► accept_revealed* ─► finish ─► SecureSum

Each `accept_*` takes one device's answer of the current stage; each `close_*` ends the stage with whoever has answered and
returns the next message for every device that is still in. A device that is late or whose answer is rejected is dropped; the
sum is over exactly the devices whose masked input was accepted. Masked inputs are added as they come and not kept.

Pure: no I/O, clock or randomness. One instance serves one attempt; a retry takes a new session.

Source: Bell et al., CCS 2020, figure 2; Bonawitz et al., CCS 2017, figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.names import DeviceId
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

__all__ = ["SecureSum", "ServerPolicy", "ServerRole", "ServerStage"]


@dataclass(frozen=True, kw_only=True)
class ServerPolicy:
    """What the server plans for; devices have floors of their own (`device_role.DevicePolicy`).

    Attributes:
        minimum_cohort: below this many survivors the round is void.
        corrupt_fraction: share of the cohort assumed to collude (γ).
        dropout_fraction: share of the cohort that may vanish (δ).
        secrecy_bits: σ of `planner.plan`.
        correctness_bits: η of `planner.plan`.
        split_view_safe: thresholds that hold against a server that tells neighbours different stories.
    """

    minimum_cohort: int = 3
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.1
    secrecy_bits: int = 40
    correctness_bits: int = 20
    split_view_safe: bool = False


class ServerStage(StrEnum):
    """What the server is waiting for."""

    ADVERTISEMENTS = "advertisements"
    SHARES = "shares"
    MASKED_INPUTS = "masked inputs"
    CONFIRMATIONS = "confirmations"
    REVEALED_SHARES = "revealed shares"
    FINISHED = "finished"
    VOID = "void"


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """The one thing the server learns.

    Attributes:
        words: Σ of the participants' words modulo 2^word_bits, uint32 (word_count,).
        participants: whose words are in the sum, ascending.
        dropped: who was in the cohort and is not in the sum, ascending.
    """

    words: NDArray[np.uint32]
    participants: tuple[DeviceId, ...]
    dropped: tuple[DeviceId, ...]


class ServerRole:
    """The server of one attempt at one round.

    `accept_*` raises RejectedContributionError for an answer that cannot be used: that device alone is left out, and it says
    why. `close_*` and `finish` raise VoidRoundError when too few are left: nothing is released.

    Args:
        announcement: the round; hand it to the devices as it is.
        roster: identity public keys of the devices that may take part.
        policy: what is planned for.
    """

    def __init__(
        self,
        announcement: Announcement,
        *,
        roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
        policy: ServerPolicy,
    ) -> None:
        raise NotImplementedError

    @property
    def stage(self) -> ServerStage:
        """What the server is waiting for."""
        raise NotImplementedError

    @property
    def expected(self) -> frozenset[DeviceId]:
        """Devices whose answer at this stage is still out (in the first stage: everybody of the roster)."""
        raise NotImplementedError

    def accept_advertisement(self, sender: DeviceId, message: Advertisement) -> None:
        """Stage 1: take a device's signed keys, after checking signature, session and uniqueness."""
        raise NotImplementedError

    def close_advertising(self) -> dict[DeviceId, CohortBook]:
        """Plan for exactly the devices that advertised.

        Raises:
            VoidRoundError: fewer than `minimum_cohort`.
            InfeasiblePlanError: the policy cannot be met with so many devices; says what to change.
        """
        raise NotImplementedError

    def accept_shares(self, sender: DeviceId, message: SealedShares) -> None:
        """Stage 2: take the sealed shares of a device: exactly one for each of its neighbours."""
        raise NotImplementedError

    def close_sharing(self) -> dict[DeviceId, ShareDelivery]:
        """Carry the seals of those who shared to their neighbours. Raises VoidRoundError for too few."""
        raise NotImplementedError

    def accept_masked_input(self, sender: DeviceId, message: MaskedInput) -> None:
        """Stage 3: add a device's masked words to the running total."""
        raise NotImplementedError

    def close_masking(self) -> dict[DeviceId, SurvivorList] | dict[DeviceId, UnmaskRequest]:
        """Settle who is in the sum; a SurvivorList each where survivors are compared, else an UnmaskRequest each."""
        raise NotImplementedError

    def accept_confirmation(self, sender: DeviceId, message: SurvivorConfirmation) -> None:
        """Between 3 and 4, only where survivors are compared: take a device's signature under the list."""
        raise NotImplementedError

    def close_confirming(self) -> dict[DeviceId, UnmaskRequest]:
        """Carry the signatures to the neighbours. Raises VoidRoundError for too few."""
        raise NotImplementedError

    def accept_revealed(self, sender: DeviceId, message: RevealedShares) -> None:
        """Stage 4: take a device's shares."""
        raise NotImplementedError

    @property
    def can_finish(self) -> bool:
        """Whether every secret that is needed has its threshold of shares: no need to wait for more."""
        raise NotImplementedError

    def finish(self) -> SecureSum:
        """Reconstruct the missing secrets, remove their masks, give the sum.

        Raises:
            VoidRoundError: a secret has too few shares, or its shares do not belong together; names the device.
        """
        raise NotImplementedError
