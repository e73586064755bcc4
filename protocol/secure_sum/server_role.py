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

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import check_advertisement, check_distinct_keys
from protocol.secure_sum.device_rules import verify_survivors
from protocol.secure_sum.errors import (
    MaskError,
    RefusedRoundError,
    RejectedContributionError,
)
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.masks import unpack_words
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
from protocol.secure_sum.sealed_shares import SEALED_BYTES
from protocol.secure_sum.server_rules import (
    ServerPolicy,
    check_enough,
    check_removable,
    cohort_books,
    positions_of,
    settle_cohort,
    share_deliveries,
    supported_sharers,
    unmask_requests,
)
from protocol.secure_sum.unmasking import Unmasking

__all__ = ["SecureSum", "ServerPolicy", "ServerRole", "ServerStage"]


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
        liars: who revealed wrong shares; the sum is right, but they had better not be asked again.
    """

    words: NDArray[np.uint32]
    participants: tuple[DeviceId, ...]
    dropped: tuple[DeviceId, ...]
    liars: tuple[DeviceId, ...] = ()


class ServerRole:
    """The server of one attempt at one round.

    `accept_*` raises RejectedContributionError for an answer that cannot be used (late and doubled ones too): that device
    alone is left out, and it says why. `close_*` and `finish` raise VoidRoundError when too few are left: nothing is unmasked,
    and the instance is spent. A `close_*` or `finish` out of turn is a RuntimeError.

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
        self._announcement = announcement
        self._roster = roster
        self._policy = policy
        self._stage = ServerStage.ADVERTISEMENTS
        self._expected: set[DeviceId] = set(roster)
        self._advertisements: dict[DeviceId, Advertisement] = {}
        self._public_keys: set[bytes] = set()
        self._cohort: Cohort | None = None
        self._seals: dict[DeviceId, dict[DeviceId, bytes]] = {}
        self._sharers: frozenset[DeviceId] = frozenset()
        self._survivors: set[DeviceId] = set()
        self._total = np.zeros(announcement.word_count, np.uint32)
        self._confirmations: dict[DeviceId, SurvivorConfirmation] = {}
        self._unmasking: Unmasking | None = None

    @property
    def stage(self) -> ServerStage:
        """What the server is waiting for."""
        return self._stage

    @property
    def expected(self) -> frozenset[DeviceId]:
        """Devices whose answer at this stage is still out (in the first stage: everybody of the roster)."""
        return frozenset(self._expected)

    def accept_advertisement(self, sender: DeviceId, message: Advertisement) -> None:
        """Stage 1: take a device's signed keys, after checking signature, session and uniqueness."""
        self._check_due(ServerStage.ADVERTISEMENTS, sender, message)
        if message.device != sender:
            raise RejectedContributionError(
                f"device {sender!r} sent the advertisement of {message.device!r}; send your own"
            )
        try:
            check_advertisement(message, self._announcement, self._roster[sender])
            check_distinct_keys((message,))
        except RefusedRoundError as error:
            raise RejectedContributionError(str(error)) from None
        keys = {message.sharing_key, message.masking_key}
        if keys & self._public_keys:
            raise RejectedContributionError(
                f"device {sender!r} advertises a key that another device of this round has advertised; keys must be fresh"
            )
        self._public_keys |= keys
        self._advertisements[sender] = message
        self._expected.discard(sender)

    def close_advertising(self) -> dict[DeviceId, CohortBook]:
        """Plan for exactly the devices that advertised.

        Raises:
            VoidRoundError: fewer than `minimum_cohort`.
            InfeasiblePlanError: the policy cannot be met with so many devices; says what to change.
        """
        with self._closing(ServerStage.ADVERTISEMENTS, ServerStage.SHARES):
            check_enough(self._advertisements, self._policy.minimum_cohort, "advertised keys")
            self._cohort = settle_cohort(self._announcement, self._advertisements, self._policy)
            self._expected = set(self._cohort.ids)
            return cohort_books(self._cohort, self._advertisements)

    def accept_shares(self, sender: DeviceId, message: SealedShares) -> None:
        """Stage 2: take the sealed shares of a device: exactly one for each of its neighbours."""
        self._check_due(ServerStage.SHARES, sender, message)
        seals = {DeviceId(sealed.peer): sealed.seal for sealed in message.seals}
        neighbours = self._settled.neighbours(sender)
        if len(seals) != len(message.seals) or seals.keys() != set(neighbours):
            raise RejectedContributionError(
                f"device {sender!r} sealed {len(message.seals)} shares; it must seal exactly one for each of its {len(neighbours)} neighbours"
            )
        if any(len(seal) != SEALED_BYTES for seal in seals.values()):
            raise RejectedContributionError(f"device {sender!r} sent a seal that is not {SEALED_BYTES} bytes")
        self._seals[sender] = seals
        self._expected.discard(sender)

    def close_sharing(self) -> dict[DeviceId, ShareDelivery]:
        """Carry the seals of those who shared to their neighbours. Raises VoidRoundError for too few."""
        with self._closing(ServerStage.SHARES, ServerStage.MASKED_INPUTS):
            check_enough(self._seals, self._floor, "shared their keys")
            self._sharers = supported_sharers(self._settled, self._seals.keys())
            check_enough(self._sharers, self._floor, "shared keys with a threshold of others who did")
            self._expected = set(self._sharers)
            deliveries = share_deliveries(self._settled, self._sharers, self._seals)
            self._seals.clear()
            return deliveries

    def accept_masked_input(self, sender: DeviceId, message: MaskedInput) -> None:
        """Stage 3: add a device's masked words to the running total."""
        self._check_due(ServerStage.MASKED_INPUTS, sender, message)
        try:
            words = unpack_words(message.words, self._announcement.word_count, self._announcement.word_bits)
        except MaskError as error:
            raise RejectedContributionError(f"the masked input of {sender!r} does not fit: {error}") from None
        np.add(self._total, words, out=self._total)
        self._survivors.add(sender)
        self._expected.discard(sender)

    def close_masking(self) -> dict[DeviceId, SurvivorList] | dict[DeviceId, UnmaskRequest]:
        """Settle who is in the sum; a SurvivorList each where survivors are compared, else an UnmaskRequest each.

        Raises:
            VoidRoundError: too few are left, or somebody's masks could no longer be removed.
        """
        compares = self._announcement.requires_confirmation
        following = ServerStage.CONFIRMATIONS if compares else ServerStage.REVEALED_SHARES
        with self._closing(ServerStage.MASKED_INPUTS, following):
            cohort, survivors = self._settled, frozenset(self._survivors)
            dropped = self._sharers - survivors
            check_enough(survivors, self._floor, "sent their masked input")
            check_removable(cohort, survivors, dropped)
            self._unmasking = Unmasking(
                cohort,
                binding=cohort.binding(self._announcement),
                advertisements=self._advertisements,
                survivors=survivors,
                dropped=dropped,
            )
            self._expected = set(survivors)
            if not compares:
                return self._unmask_requests(survivors)
            listed = SurvivorList(
                session=cohort.session,
                round_number=cohort.round_number,
                survivors=positions_of(cohort, survivors),
            )
            return dict.fromkeys(sorted(survivors), listed)

    def accept_confirmation(self, sender: DeviceId, message: SurvivorConfirmation) -> None:
        """Between 3 and 4, only where survivors are compared: take a device's signature under the list."""
        self._check_due(ServerStage.CONFIRMATIONS, sender, message)
        bits = positions_of(self._settled, self._survivors)
        if message.device != sender or not verify_survivors(
            self._settled, bits, self._roster[sender], message.signature
        ):
            raise RejectedContributionError(
                f"device {sender!r} did not sign the list of survivors it was shown"
            )
        self._confirmations[sender] = message
        self._expected.discard(sender)

    def close_confirming(self) -> dict[DeviceId, UnmaskRequest]:
        """Carry the signatures to the neighbours of their signers. Raises VoidRoundError for too few."""
        with self._closing(ServerStage.CONFIRMATIONS, ServerStage.REVEALED_SHARES):
            check_enough(self._confirmations, self._floor, "confirmed the survivors")
            self._expected = set(self._confirmations)
            return self._unmask_requests(self._confirmations.keys())

    def accept_revealed(self, sender: DeviceId, message: RevealedShares) -> None:
        """Stage 4: take a device's shares."""
        self._check_due(ServerStage.REVEALED_SHARES, sender, message)
        self._unmasked.accept(sender, message)
        self._expected.discard(sender)

    @property
    def can_finish(self) -> bool:
        """Whether every secret that is needed has its threshold of shares: no need to wait for more."""
        return self._stage is ServerStage.REVEALED_SHARES and self._unmasked.can_finish

    def finish(self) -> SecureSum:
        """Reconstruct the missing secrets, remove their masks, give the sum.

        Raises:
            VoidRoundError: a secret has too few shares, or its shares do not belong together; names the device.
        """
        with self._closing(ServerStage.REVEALED_SHARES, ServerStage.FINISHED):
            unmasking, self._unmasking = self._unmasked, None
            unmasking.remove_masks(self._total)
            words = self._total & np.uint32((1 << self._announcement.word_bits) - 1)
            return SecureSum(
                words=words,
                participants=tuple(sorted(self._survivors)),
                dropped=tuple(sorted(set(self._settled.ids) - self._survivors)),
                liars=tuple(sorted(unmasking.liars)),
            )

    @property
    def _settled(self) -> Cohort:
        if self._cohort is None:
            raise RuntimeError("the cohort is settled by close_advertising")
        return self._cohort

    @property
    def _unmasked(self) -> Unmasking:
        if self._unmasking is None:
            raise RuntimeError("the survivors are settled by close_masking")
        return self._unmasking

    @property
    def _floor(self) -> int:
        return max(self._settled.plan.threshold, self._policy.minimum_cohort)

    def _unmask_requests(self, asked: Iterable[DeviceId]) -> dict[DeviceId, UnmaskRequest]:
        survivors = frozenset(self._survivors)
        return unmask_requests(
            self._settled,
            survivors=survivors,
            dropped=self._sharers - survivors,
            asked=asked,
            confirmations=self._confirmations,
        )

    def _check_due(
        self,
        stage: ServerStage,
        sender: DeviceId,
        message: Advertisement | SealedShares | MaskedInput | SurvivorConfirmation | RevealedShares,
    ) -> None:
        announced = self._announcement
        if (message.session, message.round_number) != (announced.session, announced.round_number):
            raise RejectedContributionError(
                f"device {sender!r} answered session {message.session!r} round {message.round_number}; this is session "
                f"{announced.session!r} round {announced.round_number}"
            )
        if self._stage is not stage:
            raise RejectedContributionError(
                f"device {sender!r} sent {stage.value} while the server is at {self._stage.value}: too late or too early"
            )
        if sender not in self._expected:
            raise RejectedContributionError(
                f"device {sender!r} is not expected to send {stage.value}: it was dropped, is not enrolled, or has sent them before"
            )

    @contextmanager
    def _closing(self, stage: ServerStage, following: ServerStage) -> Iterator[None]:
        """End a stage in its turn; a round that cannot go on is void for good."""
        if self._stage is not stage:
            raise RuntimeError(f"the server is at {self._stage.value}; it cannot close {stage.value}")
        try:
            yield
        except BaseException:
            self._stage = ServerStage.VOID
            self._expected.clear()
            self._seals.clear()
            self._unmasking = None
            self._total.fill(0)
            raise
        self._stage = following
        if following is ServerStage.FINISHED:
            self._expected.clear()
