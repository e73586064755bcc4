"""The peer of `secure_sum.py`: one device of Flower's SecAgg+, through Flower's genuine stage functions.

Not a whole Flower round: what the neighbours would send is made here and not timed, and Flower's own transport and state
records are left out, in Flower's favour.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord

# Private names on purpose: the figure is about these very functions.
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

Result = TypeVar("Result")


@dataclass
class Stopwatch:
    """Adds up the processor time of the calls made through it."""

    ms: float = 0.0

    def time(self, call: Callable[[], Result]) -> Result:
        """Make the call and add its time."""
        started = time.process_time()
        result = call()
        self.ms += 1e3 * (time.process_time() - started)
        return result


class FlowerDevice:
    """One device of Flower's SecAgg+, through its four stage functions; what its neighbours send is not timed."""

    def __init__(self, *, neighbours: int, parameters: int) -> None:
        self._peers = range(1, neighbours + 1)
        self._vector = ndarrays_to_parameters([np.random.default_rng(1).uniform(-1, 1, parameters)])
        self.uploaded_bytes = 0

    def run(self) -> float:
        """Play all four stages; returns the device's own time in ms."""
        watch = Stopwatch()
        state = SecAggPlusState()
        n = len(self._peers) + 1
        setup = {
            Key.SAMPLE_NUMBER: n,
            Key.SHARE_NUMBER: n,
            Key.THRESHOLD: n // 2 + 1,
            Key.CLIPPING_RANGE: 3.0,
            Key.TARGET_RANGE: 1 << 22,
            Key.MOD_RANGE: 1 << 32,
            Key.MAX_WEIGHT: 1000.0,
        }
        own_keys = watch.time(lambda: _setup(state, ConfigRecord(setup)))
        pairs = {peer: (generate_key_pairs(), generate_key_pairs()) for peer in self._peers}
        book = {str(peer): [public_key_to_bytes(keys[1]) for keys in both] for peer, both in pairs.items()}
        book["0"] = [own_keys[Key.PUBLIC_KEY_1], own_keys[Key.PUBLIC_KEY_2]]
        watch.time(lambda: _share_keys(state, ConfigRecord(book)))
        own_public = bytes_to_public_key(state.pk2)
        share = state.rd_seed_share_dict[0]
        sealed = [
            encrypt(
                generate_shared_key(sharing[0], own_public),
                share_keys_plaintext_concat(peer, 0, share, share),
            )
            for peer, (_, sharing) in pairs.items()
        ]
        delivery = {Key.CIPHERTEXT_LIST: sealed, Key.SOURCE_LIST: list(self._peers)}
        masked = watch.time(lambda: _collect_masked_vectors(state, ConfigRecord(delivery), 500, self._vector))
        self.uploaded_bytes = sum(len(part) for part in masked[Key.MASKED_PARAMETERS])
        lost = n // 10
        request = {
            Key.ACTIVE_NODE_ID_LIST: [0, *self._peers[lost:]],
            Key.DEAD_NODE_ID_LIST: [*self._peers[:lost]],
        }
        watch.time(lambda: _unmask(state, ConfigRecord(request)))
        return watch.ms
