"""Devices that mask badly, each in one way: what a test of secrecy must find. No test runs them for anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.secure_sum.device_role import DeviceRole
from protocol.secure_sum.masks import add_masks


class NothingHidden(DeviceRole):
    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        pass


class OneByteOfMask(DeviceRole):
    """A mask that is too short: the upper bytes of each word shine through."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        short = np.zeros_like(words)
        super()._hide(short, begun, settled)
        words += short & np.uint32(0xFF)


class MersenneTwisterMasks(DeviceRole):
    """Masks from a generator that is random enough for statistics and not for secrets, as Flower 1.42 makes them."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        for peer in settled.neighbours:
            seed = begun.secrets.pair_seed(peer, settled.cohort.binding(begun.announcement))
            twister = np.random.RandomState(np.frombuffer(seed, "<u4"))
            mask = twister.randint(0, 2**32, len(words), dtype=np.uint32)
            words += mask if self._device < peer else -mask


class NoPairMasks(DeviceRole):
    """Leaves out the masks shared with neighbours: hidden only until the self-mask is opened."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        add_masks(words, added=[begun.secrets.self_mask], subtracted=[], generator=settled.cohort.generator)


class NoSelfMask(DeviceRole):
    """Leaves out the mask that only the device itself can take off."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        bare = type(begun)(
            announcement=begun.announcement, own=begun.own, secrets=_WithoutSelfMask(begun.secrets)
        )
        super()._hide(words, bare, settled)


class _WithoutSelfMask:
    def __init__(self, secrets: Any) -> None:
        self._secrets = secrets
        self.self_mask = bytes(32)

    def pair_seed(self, *arguments: Any) -> Any:
        return self._secrets.pair_seed(*arguments)
