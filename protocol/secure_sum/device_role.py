"""A device in a secure sum: what it says at each stage, and when it refuses to say anything.

::

    advertise ─► share_keys ─► accept, charged ─► mask ─► [confirm] ─► unmask, recorded     one instance, one round, each once
        └───────────┴──────────────┴───────────────┴──────────┴───────────┴──► any refusal wipes the round's secrets

Pure: no I/O, clock or hidden randomness. One instance serves one attempt at one round; a retry takes a new one, so that
every secret is fresh. The device trusts the roster of identity keys it was handed (the fleet's, not the aggregator's) and
its own policy; everything the server says is checked against these two (`device_rules`). Secrets live in `round_secrets`.

`accept` and `mask` are two steps of one stage, with the device's data between them: whatever the server sent is checked, and
the answer charged durably, before data are touched. So a refusal says nothing of them, and nothing is learned for free.

Not here: clipping, fixed point and noise (what the words mean), the road to the server.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS 2020; Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.identity import IdentityKey
from protocol.names import DeviceId
from protocol.secure_sum.advertisements import sign_advertisement
from protocol.secure_sum.budget import Budget
from protocol.secure_sum.device_rules import (
    DevicePolicy,
    check_announced,
    check_cohort,
    check_confirmations,
    check_seals,
    check_sharers,
    check_survivors,
    check_words,
    sign_survivors,
)
from protocol.secure_sum.errors import (
    AnnouncementMismatchError,
    RepeatedStageError,
    SplitViewError,
    StageOrderError,
)
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.masks import add_masks, pack_words
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
from protocol.secure_sum.round_secrets import RoundSecrets

__all__ = ["DevicePolicy", "DeviceRole", "DeviceStage"]


class DeviceStage(StrEnum):
    """The last stage a device has completed."""

    NEW = "new"
    ADVERTISED = "advertised"
    SHARED = "shared"
    ACCEPTED = "accepted"
    MASKED = "masked"
    CONFIRMED = "confirmed"
    REVEALED = "revealed"
    REFUSED = "refused"


_ORDER: Final = tuple(DeviceStage)


@dataclass(kw_only=True)
class _Begun:
    """A round from this device's advertisement on."""

    announcement: Announcement
    own: Advertisement
    secrets: RoundSecrets


@dataclass(kw_only=True)
class _Settled:
    """A round from its cohort on."""

    cohort: Cohort
    neighbours: frozenset[DeviceId]
    sharers: frozenset[DeviceId] = frozenset()
    confirmed: bytes | None = None


class DeviceRole:
    """One device in one attempt at one round.

    Every method takes the server's message of a stage and returns the device's answer, or raises a RefusedRoundError whose
    message says what was wrong and what would be right; then the secrets are wiped and every further request is refused.

    Args:
        device: this device's id, as the roster knows it.
        identity_key: this device's long-lived P-256 key.
        roster: identity public keys of every device that may take part, from the fleet (not from the server of the sum).
        policy: the device's floors.
        budget: asked before anything is given; what it refuses with is passed on.
        random_bytes: the operating system's generator outside of tests.
    """

    def __init__(
        self,
        device: DeviceId,
        *,
        identity_key: IdentityKey,
        roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
        policy: DevicePolicy,
        budget: Budget,
        random_bytes: RandomBytes,
    ) -> None:
        self._device = device
        self._identity_key = identity_key
        self._roster = roster
        self._policy = policy
        self._budget = budget
        self._random_bytes = random_bytes
        self._stage = DeviceStage.NEW
        self._round: _Begun | None = None
        self._cohort: _Settled | None = None
        self._unreadable: tuple[DeviceId, ...] = ()

    @property
    def stage(self) -> DeviceStage:
        """The last stage completed."""
        return self._stage

    @property
    def unreadable(self) -> tuple[DeviceId, ...]:
        """Neighbours whose seals did not open: worth a line in the log, no reason to stop."""
        return self._unreadable

    def advertise(self, announcement: Announcement) -> Advertisement:
        """Stage 1: make the round's secrets and sign their public keys.

        Raises:
            SplitViewError: the policy requires compared survivors and the round does not compare them.
            RepeatedStageError: this instance has already advertised.
        """
        with self._completing(DeviceStage.ADVERTISED):
            self._budget.check(announcement)
            if self._policy.requires_confirmation and not announcement.requires_confirmation:
                raise SplitViewError(
                    "this device takes part only where survivors are compared; announce the round with requires_confirmation"
                )
            secrets = RoundSecrets(self._device, self._random_bytes)
            own = sign_advertisement(
                announcement,
                self._device,
                sharing_key=secrets.sharing_key,
                masking_key=secrets.masking_key,
                self_mask=secrets.self_mask,
                generators=self._policy.generators,
                identity_key=self._identity_key,
            )
            self._round = _Begun(announcement=announcement, own=own, secrets=secrets)
            return own

    def share_keys(self, book: CohortBook) -> SealedShares:
        """Stage 2: check the cohort and the neighbours, leave each neighbour a share of both secrets.

        Raises:
            CohortTooSmallError, ThresholdTooLowError, UnknownDeviceError, AdvertisementError, GraphMismatchError,
            AnnouncementMismatchError, RepeatedStageError, StageOrderError: see `protocol.secure_sum.errors`.
        """
        with self._completing(DeviceStage.SHARED):
            begun = self._begun(book)
            cohort, neighbours = check_cohort(
                book,
                announcement=begun.announcement,
                own=begun.own,
                roster=self._roster,
                policy=self._policy,
            )
            self._budget.check_cohort(begun.announcement, frozenset(cohort.ids))
            self._cohort = _Settled(cohort=cohort, neighbours=frozenset(neighbours))
            begun.secrets.agree(neighbours)
            return SealedShares(
                session=cohort.session,
                round_number=cohort.round_number,
                seals=begun.secrets.share(cohort),
            )

    def accept(self, delivery: ShareDelivery, *, model_hash: bytes, config_hash: bytes) -> None:
        """Stage 3, before the device's data are touched: check what was delivered, then charge the answer.

        A seal that does not open counts as not having its shares; the mask is applied all the same, as the others do.

        Args:
            delivery: the neighbours' sealed shares.
            model_hash: SHA-256 of the arrays that came with the question.
            config_hash: SHA-256 of the question and its terms.

        Raises:
            AnnouncementMismatchError: model or question are not the announced ones.
            TooFewSurvivorsError: fewer than max(threshold, floor) devices shared.
            SurvivorMismatchError, RepeatedStageError, StageOrderError: see the errors.
        """
        with self._completing(DeviceStage.ACCEPTED):
            begun, settled = self._begun(delivery), self._settled()
            check_announced(begun.announcement, model_hash=model_hash, config_hash=config_hash)
            settled.sharers = check_sharers(
                delivery.sharers, cohort=settled.cohort, device=self._device, policy=self._policy
            )
            check_seals(
                [seal.peer for seal in delivery.seals],
                neighbours=settled.neighbours,
                sharers=settled.sharers,
            )
            self._unreadable = begun.secrets.hold(settled.cohort, delivery.seals)
            # Last, so that a refused round costs nothing; before data are touched, so that nothing is ever answered for free.
            self._budget.charge(begun.announcement)

    def mask(self, words: NDArray[np.uint32]) -> MaskedInput:
        """Stage 3, once the answer is there: hide `words` under the masks shared with every neighbour that shared its secrets.

        Args:
            words: uint32 (word_count,), each meant modulo 2^word_bits (`fixed_point`); not changed.

        Raises:
            AnnouncementMismatchError: another number of words than was announced.
            RepeatedStageError, StageOrderError: see the errors.
        """
        with self._completing(DeviceStage.MASKED):
            if self._round is None:
                raise StageOrderError("this device has not advertised keys for any round yet")
            begun, settled = self._round, self._settled()
            check_words(begun.announcement, words)
            masked = np.array(words, np.uint32, order="C")
            self._hide(masked, begun, settled)
            begun.secrets.wipe_own()
            packed = pack_words(masked, begun.announcement.word_bits)
            announced = begun.announcement
            return MaskedInput(session=announced.session, round_number=announced.round_number, words=packed)

    def confirm(self, survivors: SurvivorList) -> SurvivorConfirmation:
        """Between 3 and 4, only where survivors are compared: sign the list this device was shown.

        Raises:
            TooFewSurvivorsError, SurvivorMismatchError, RepeatedStageError, StageOrderError: see the errors.
        """
        with self._completing(DeviceStage.CONFIRMED):
            begun, settled = self._begun(survivors), self._settled()
            if not begun.announcement.requires_confirmation:
                raise StageOrderError(
                    "survivors are compared only in rounds that were announced so; this one goes on with unmask"
                )
            check_survivors(
                survivors.survivors,
                cohort=settled.cohort,
                device=self._device,
                sharers=settled.sharers,
                policy=self._policy,
            )
            settled.confirmed = survivors.survivors
            return SurvivorConfirmation(
                session=survivors.session,
                round_number=survivors.round_number,
                device=self._device,
                signature=sign_survivors(settled.cohort, survivors.survivors, self._identity_key),
            )

    def unmask(self, request: UnmaskRequest) -> RevealedShares:
        """Stage 4: reveal shares of survivors' self-mask seeds and of dropped devices' mask keys; then forget everything.

        Raises:
            BothListsError, TooFewSurvivorsError, SurvivorMismatchError, SplitViewError, RepeatedStageError,
            StageOrderError: see the errors.
        """
        with self._completing(DeviceStage.REVEALED):
            begun, settled = self._begun(request), self._settled()
            survivors, dropped = check_survivors(
                request.survivors,
                cohort=settled.cohort,
                device=self._device,
                sharers=settled.sharers,
                policy=self._policy,
                dropped=request.dropped,
            )
            if begun.announcement.requires_confirmation:
                self._check_compared(request, settled)
            # Before a share leaves, so that a crash never opens a second sum.
            self._budget.reveal(begun.announcement, survivors)
            revealed = self._reveal(request, begun.secrets, survivors, dropped)
            begun.secrets.wipe()
            return revealed

    def leave(self) -> None:
        """Wipe the round's secrets; every further request is refused. For rounds that end without this device."""
        if self._round:
            self._round.secrets.wipe()
        self._stage = DeviceStage.REFUSED

    def _hide(self, words: NDArray[np.uint32], begun: _Begun, settled: _Settled) -> None:
        """Add the self-mask, and for each pair its mask: the lower id adds it, the higher subtracts it."""
        binding = settled.cohort.binding(begun.announcement)
        added: list[bytes] = [begun.secrets.self_mask]
        subtracted: list[bytes] = []
        for peer in settled.sharers & settled.neighbours:
            seed = begun.secrets.pair_seed(peer, binding)
            (added if self._device < peer else subtracted).append(seed)
        add_masks(words, added=added, subtracted=subtracted, generator=settled.cohort.generator)

    def _reveal(
        self,
        request: UnmaskRequest,
        secrets: RoundSecrets,
        survivors: frozenset[DeviceId],
        dropped: frozenset[DeviceId],
    ) -> RevealedShares:
        return RevealedShares(
            session=request.session,
            round_number=request.round_number,
            seeds=secrets.self_mask_shares(survivors),
            mask_keys=secrets.mask_key_shares(dropped),
        )

    @contextmanager
    def _completing(self, stage: DeviceStage) -> Iterator[None]:
        """Enter a stage in its turn; whatever goes wrong inside ends the round for this device."""
        try:
            self._check_turn(stage)
            yield
        except BaseException:
            self.leave()
            raise
        self._stage = stage

    def _check_turn(self, stage: DeviceStage) -> None:
        if _ORDER.index(stage) <= _ORDER.index(self._stage):
            raise RepeatedStageError(
                f"stage {stage.value!r} was requested, but this device is already at {self._stage.value!r}; each stage is answered "
                "once, and a retry is a new session"
            )
        compares = self._round is not None and self._round.announcement.requires_confirmation
        steps = [step for step in _ORDER if compares or step is not DeviceStage.CONFIRMED or step is stage]
        before = steps[steps.index(stage) - 1]
        if self._stage is not before:
            raise StageOrderError(
                f"stage {stage.value!r} was requested after {self._stage.value!r}; it comes after {before.value!r}"
            )

    def _begun(self, message: CohortBook | ShareDelivery | SurvivorList | UnmaskRequest) -> _Begun:
        if not self._round:
            raise StageOrderError("this device has not advertised keys for any round yet")
        announced = self._round.announcement
        if (message.session, message.round_number) != (announced.session, announced.round_number):
            raise AnnouncementMismatchError(
                f"the message is of session {message.session!r} round {message.round_number}; this device takes part in session "
                f"{announced.session!r} round {announced.round_number}"
            )
        return self._round

    def _settled(self) -> _Settled:
        if not self._cohort:
            raise StageOrderError("this device has not been shown its cohort yet")
        return self._cohort

    def _check_compared(self, request: UnmaskRequest, settled: _Settled) -> None:
        if request.survivors != settled.confirmed:
            raise SplitViewError(
                "the survivors to unmask are not the ones this device confirmed; the server must not change the list"
            )
        check_confirmations(
            request.confirmations,
            survivors=request.survivors,
            cohort=settled.cohort,
            device=self._device,
            roster=self._roster,
        )
