"""Everything a device must forget when a round ends, and the only code that touches it.

Two X25519 secrets and a self-mask seed of its own, the secrets derived with each neighbour, and the shares it holds for others.
They never show in a representation, and `wipe` overwrites what Python lets us overwrite and drops the rest.

Not here: whether the device should do any of it (`device_rules`), and when (`device_role`).

Source: Bell et al., CCS 2020, figure 2; Bonawitz et al., CCS 2017, figure 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.names import DeviceId
from protocol.secure_sum.errors import SealedShareError
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.keys import (
    RandomBytes,
    RoundBinding,
    derive_pair_seed,
    derive_share_key,
    generate_key_pair,
)
from protocol.secure_sum.masks import SEED_BYTES
from protocol.secure_sum.messages import Advertisement, SealedShare, Shares
from protocol.secure_sum.sealed_shares import SharePair, open_shares, seal_shares
from protocol.secure_sum.shamir import split_many

__all__ = ["RoundSecrets"]


class RoundSecrets:
    """The secrets of one device in one attempt at one round, fresh from `random_bytes`."""

    def __init__(self, device: DeviceId, random_bytes: RandomBytes) -> None:
        self._device = device
        self._random_bytes = random_bytes
        self._sharing = generate_key_pair(random_bytes)
        self._masking = generate_key_pair(random_bytes)
        self._self_mask = bytearray(random_bytes(SEED_BYTES))
        self._seal_secrets: dict[DeviceId, bytes] = {}
        self._mask_secrets: dict[DeviceId, bytes] = {}
        self._held: dict[DeviceId, SharePair] = {}

    @property
    def sharing_key(self) -> bytes:
        """Public key under which neighbours seal shares."""
        return self._sharing.public

    @property
    def masking_key(self) -> bytes:
        """Public key from which neighbours derive pair seeds."""
        return self._masking.public

    @property
    def self_mask(self) -> bytes:
        """Seed of the mask that only this device adds."""
        return bytes(self._self_mask)

    def agree(self, neighbours: Mapping[DeviceId, Advertisement]) -> None:
        """Derive the secrets shared with each neighbour. Their keys have passed `check_advertisement`."""
        for device, peer in neighbours.items():
            self._seal_secrets[device] = self._sharing.agree(peer.sharing_key)
            self._mask_secrets[device] = self._masking.agree(peer.masking_key)

    def share(self, cohort: Cohort) -> tuple[SealedShare, ...]:
        """Split the masking secret and the self-mask seed among the holders; one seal for each neighbour."""
        holders = cohort.holders(self._device)
        mask_keys, self_masks = split_many(
            [self._masking.secret, self._self_mask],
            threshold=cohort.plan.threshold,
            points=[cohort.point(holder) for holder in holders],
            random_bytes=self._random_bytes,
        )
        seals = []
        for holder, mask_key, self_mask in zip(holders, mask_keys, self_masks, strict=True):
            pair = SharePair(mask_key=mask_key, self_mask=self_mask)
            if holder == self._device:
                self._held[holder] = pair
                continue
            seal = seal_shares(
                self._share_key(cohort, sender=self._device, recipient=holder, peer=holder),
                pair,
                session=cohort.session,
                round_number=cohort.round_number,
                sender=self._device,
                recipient=holder,
                random_bytes=self._random_bytes,
            )
            seals.append(SealedShare(holder, seal))
        return tuple(seals)

    def hold(self, cohort: Cohort, seals: Iterable[SealedShare]) -> tuple[DeviceId, ...]:
        """Open the neighbours' seals and keep their shares; returns whose did not open."""
        unreadable = []
        for sealed in seals:
            sender = DeviceId(sealed.peer)
            try:
                self._held[sender] = open_shares(
                    self._share_key(cohort, sender=sender, recipient=self._device, peer=sender),
                    sealed.seal,
                    session=cohort.session,
                    round_number=cohort.round_number,
                    sender=sender,
                    recipient=self._device,
                )
            except SealedShareError:
                # One bad neighbour must not end the round for all of its neighbours: without this share the others' must do.
                unreadable.append(sender)
        return tuple(unreadable)

    def pair_seed(self, peer: DeviceId, binding: RoundBinding) -> bytes:
        """Seed of the mask shared with the neighbour `peer`."""
        return derive_pair_seed(self._mask_secrets[peer], binding=binding, devices=(self._device, peer))

    def self_mask_shares(self, owners: frozenset[DeviceId]) -> tuple[Shares, ...]:
        """The shares held of these devices' self-mask seeds."""
        return tuple(Shares(owner, pair.self_mask) for owner, pair in self._held.items() if owner in owners)

    def mask_key_shares(self, owners: frozenset[DeviceId]) -> tuple[Shares, ...]:
        """The shares held of these devices' masking secrets."""
        return tuple(Shares(owner, pair.mask_key) for owner, pair in self._held.items() if owner in owners)

    def wipe_own(self) -> None:
        """Overwrite or drop what the masks of this device's input could be made from; unmasking takes the held shares alone."""
        self._sharing.wipe()
        self._masking.wipe()
        self._self_mask[:] = bytes(len(self._self_mask))
        self._seal_secrets.clear()
        self._mask_secrets.clear()

    def wipe(self) -> None:
        """Overwrite or drop every secret."""
        self.wipe_own()
        self._held.clear()

    def _share_key(self, cohort: Cohort, *, sender: DeviceId, recipient: DeviceId, peer: DeviceId) -> bytes:
        return derive_share_key(
            self._seal_secrets[peer],
            session=cohort.session,
            round_number=cohort.round_number,
            sender=sender,
            recipient=recipient,
        )
