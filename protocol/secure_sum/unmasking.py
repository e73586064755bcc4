"""Taking the masks off the sum, from the shares that the survivors reveal.

::

    every survivor's self-mask seed  ◄── t shares ──┐
    every dropped device's mask key  ◄── t shares ──┴── RevealedShares of the survivors ──► Σ words

A survivor added its self-mask; its masks with other survivors cancelled, those with dropped neighbours did not. So the server
needs, for each survivor, the seed and, for each dropped device, the secret key, from which it derives that device's pair seeds
with its surviving neighbours. Never both for one device: the devices see to that, not this code.

Every secret is compared with what its owner advertised. A holder that reveals wrong shares is found by leaving holders out one at a time, as long as there are more shares than the threshold.

Source: Bell et al., CCS 2020, figure 2, last step; Bonawitz et al., CCS 2017, figure 4, round 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import holds_commitment
from protocol.secure_sum.errors import (
    RejectedContributionError,
    ShareError,
    VoidRoundError,
)
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.keys import (
    KEY_BYTES,
    RoundBinding,
    derive_pair_seed,
    key_pair_from_secret,
)
from protocol.secure_sum.masks import add_masks
from protocol.secure_sum.messages import Advertisement, RevealedShares, Shares
from protocol.secure_sum.shamir import SHARE_BYTES, combine, combine_many

__all__ = ["Unmasking"]


class Unmasking:
    """The shares of one round, as they come in.

    Args:
        cohort: of the round.
        binding: what the pair seeds are bound to.
        advertisements: of every device of the cohort.
        survivors: whose words are in the sum.
        dropped: who shared keys and is not in the sum.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        binding: RoundBinding,
        advertisements: Mapping[DeviceId, Advertisement],
        survivors: frozenset[DeviceId],
        dropped: frozenset[DeviceId],
    ) -> None:
        self._cohort = cohort
        self._binding = binding
        self._advertisements = advertisements
        self._seeds: dict[DeviceId, dict[DeviceId, bytes]] = {device: {} for device in survivors}
        self._mask_keys: dict[DeviceId, dict[DeviceId, bytes]] = {device: {} for device in dropped}
        self._short = len(survivors) + len(dropped)
        self._liars: set[DeviceId] = set()

    @property
    def can_finish(self) -> bool:
        """Whether every secret has its threshold of shares."""
        return self._short == 0

    @property
    def liars(self) -> frozenset[DeviceId]:
        """Devices found to have revealed wrong shares."""
        return frozenset(self._liars)

    def accept(self, sender: DeviceId, message: RevealedShares) -> None:
        """Take one survivor's shares, or none of them.

        Raises:
            RejectedContributionError: a share that is misshapen, doubled, or of a secret that this device was not asked for.
        """
        self._check(sender, message.seeds, self._seeds, "self-mask seed")
        self._check(sender, message.mask_keys, self._mask_keys, "mask key")
        for shares, collected in ((message.seeds, self._seeds), (message.mask_keys, self._mask_keys)):
            for share in shares:
                own = collected[DeviceId(share.owner)]
                own[sender] = share.share
                self._short -= len(own) == self._cohort.plan.threshold

    def remove_masks(self, words: NDArray[np.uint32]) -> None:
        """Turn the sum of masked words into the sum of words, in place, modulo 2^32.

        Raises:
            VoidRoundError: a secret cannot be reconstructed; names whose. `words` are then still masked.
        """
        mask_keys = {
            device: key_pair_from_secret(secret)
            for device, secret in self._reconstruct(self._mask_keys, self._is_mask_key)
        }
        # They added their self-mask; the dropped added nothing, but their neighbours did.
        subtracted = [seed for _, seed in self._reconstruct(self._seeds, self._is_seed)]
        added: list[bytes] = []
        for device, pair in mask_keys.items():
            for peer in self._cohort.neighbours(device):
                if peer in self._seeds:
                    seed = derive_pair_seed(
                        pair.agree(self._advertisements[peer].masking_key),
                        binding=self._binding,
                        devices=(device, peer),
                    )
                    # The peer added this mask if its id is the lower one, so it is taken off; and the other way round.
                    (subtracted if peer < device else added).append(seed)
        add_masks(words, added=added, subtracted=subtracted, generator=self._cohort.generator)

    def _check(
        self,
        sender: DeviceId,
        shares: tuple[Shares, ...],
        wanted: Mapping[DeviceId, Mapping[DeviceId, bytes]],
        what: str,
    ) -> None:
        owners = [DeviceId(share.owner) for share in shares]
        held = set(self._cohort.holders(sender))
        odd = {owner for owner in owners if owner not in wanted or owner not in held}
        if odd or len(set(owners)) != len(owners):
            raise RejectedContributionError(
                f"device {sender!r} revealed a {what} share of {sorted(odd) or 'one owner twice'}; it holds one share each of "
                f"{len(held)} devices and was asked for the {what} of those in its list"
            )
        if any(len(share.share) != SHARE_BYTES for share in shares):
            raise RejectedContributionError(
                f"device {sender!r} revealed a {what} share that is not {SHARE_BYTES} bytes"
            )

    def _reconstruct(
        self,
        collected: Mapping[DeviceId, Mapping[DeviceId, bytes]],
        is_secret: Callable[[DeviceId, bytes], bool],
    ) -> list[tuple[DeviceId, bytes]]:
        threshold = self._cohort.plan.threshold
        short = [device for device, shares in collected.items() if len(shares) < threshold]
        if short:
            raise VoidRoundError(
                f"{len(short)} secrets have fewer than {threshold} shares, that of {min(short)!r} for one: the round is void"
            )
        # The same holders for as many secrets as possible: their weights are computed once.
        chosen = {device: sorted(shares)[:threshold] for device, shares in collected.items()}
        try:
            secrets = combine_many(
                [self._points(holders) for holders in chosen.values()],
                [[collected[device][holder] for holder in holders] for device, holders in chosen.items()],
            )
        except ShareError:
            secrets = [b""] * len(chosen)
        return [
            (
                device,
                secret
                if is_secret(device, secret)
                else self._combine_without_liars(device, shares, is_secret),
            )
            for (device, shares), secret in zip(collected.items(), secrets, strict=True)
        ]

    def _combine_without_liars(
        self,
        owner: DeviceId,
        shares: Mapping[DeviceId, bytes],
        is_secret: Callable[[DeviceId, bytes], bool],
    ) -> bytes:
        threshold = self._cohort.plan.threshold
        holders = sorted(shares.keys() - self._liars)
        for suspect in (None, *holders[: threshold + 1]):
            chosen = [holder for holder in holders if holder != suspect][:threshold]
            if len(chosen) < threshold:
                break
            try:
                secret = combine(self._points(chosen), [shares[holder] for holder in chosen])
            except ShareError:
                continue
            if is_secret(owner, secret):
                self._liars |= {suspect} if suspect else set()
                return secret
        raise VoidRoundError(
            f"the shares revealed of {owner!r} do not give what it advertised: it shared wrongly or too many of its holders lie; "
            "the round is void, try again without it"
        )

    def _points(self, holders: Iterable[DeviceId]) -> list[int]:
        return [self._cohort.point(holder) for holder in holders]

    def _is_seed(self, owner: DeviceId, secret: bytes) -> bool:
        return holds_commitment(self._advertisements[owner], secret)

    def _is_mask_key(self, owner: DeviceId, secret: bytes) -> bool:
        return (
            len(secret) == KEY_BYTES
            and key_pair_from_secret(secret).public == self._advertisements[owner].masking_key
        )
