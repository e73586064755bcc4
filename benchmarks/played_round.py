"""One round of the secure sum with both real roles, played in this process and timed: what `secure_sum.py` shows figures of.

Every message is encoded and decoded, and the sum is compared bit for bit with the plain one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

# Before NumPy and Flower are imported: one thread, and no phoning home.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
os.environ |= {"FLWR_DISABLE_UPDATE_CHECK": "1"}

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from endless_budget import EndlessBudget
from flower_secagg_device import Stopwatch
from msgspec import Struct
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.questions import fit_layout
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.fixed_point import FixedPointCodec, PartBound
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    MaskedInput,
    RevealedShares,
    SealedShares,
    ShareDelivery,
    UnmaskRequest,
    decode,
    encode,
)
from protocol.secure_sum.server_role import ServerPolicy, ServerRole

MessageT = TypeVar("MessageT", bound=Struct)


@dataclass(kw_only=True)
class Player:
    """One device of a round: its role and what it has cost."""

    role: DeviceRole
    watch: Stopwatch = field(default_factory=Stopwatch)

    def answer(self, step: Callable[..., Struct], content: bytes, kind: type[Struct]) -> bytes:
        """Read a message, take the step, write the answer."""
        return self.watch.time(lambda: encode(step(decode(content, kind))))


class Round:
    """One round of `devices`, of which the first `dropped` vanish after sharing their keys."""

    def __init__(self, *, devices: int, parameters: int, dropped: int, word_bits: int = 32) -> None:
        layout = fit_layout(parameters)
        bounds = dict.fromkeys(layout.sizes, PartBound(bound=1.0))
        self._codec = FixedPointCodec(layout, bounds, word_bits=word_bits, devices=devices)
        self._answer = np.random.default_rng(1).uniform(-1, 1, layout.total).astype(np.float32)
        self._announcement = Announcement(
            session="benchmark",
            round_number=1,
            model_hash=bytes(32),
            config_hash=bytes(32),
            word_bits=word_bits,
            word_count=self._codec.word_count,
        )
        names = [DeviceId(f"device-{at:05d}") for at in range(devices)]
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        roster = {name: key.public_key() for name, key in keys.items()}
        self._lost = set(names[:dropped])
        policy = ServerPolicy(dropout_fraction=0.1)
        self._server = ServerRole(self._announcement, roster=roster, policy=policy)
        self._players = {
            name: Player(
                role=DeviceRole(
                    name,
                    identity_key=keys[name],
                    roster=roster,
                    policy=DevicePolicy(),
                    budget=EndlessBudget(),
                    random_bytes=os.urandom,
                )
            )
            for name in names
        }
        self._server_watch = Stopwatch()
        self._cohort: Cohort | None = None
        self._sharers: frozenset[DeviceId] = frozenset()
        self.degree = self.threshold = 0

    def play(self) -> None:
        """All four stages; checks the sum."""
        server, alive = self._server, {n: p for n, p in self._players.items() if n not in self._lost}
        announced = encode(self._announcement)
        for name, player in self._players.items():
            answer = player.answer(player.role.advertise, announced, Announcement)
            self._accept(server.accept_advertisement, name, answer, Advertisement)
        books = self._server_watch.time(server.close_advertising)
        self.degree, self.threshold = (first := next(iter(books.values()))).degree, first.threshold
        for name, player in self._players.items():
            answer = player.answer(player.role.share_keys, self._sent(books, name), CohortBook)
            self._keep_one_cohort(player.role)
            self._accept(server.accept_shares, name, answer, SealedShares)
        deliveries = self._server_watch.time(server.close_sharing)
        expected = np.zeros(self._codec.word_count, np.uint32)
        for name, player in alive.items():
            words = player.watch.time(lambda: self._codec.encode(self._answer, os.urandom))
            expected += words
            answer = player.answer(
                lambda delivery, role=player.role, words=words: self._masked(role, delivery, words),
                self._sent(deliveries, name),
                ShareDelivery,
            )
            self._keep_one_cohort(player.role)
            self._accept(server.accept_masked_input, name, answer, MaskedInput)
        requests = self._server_watch.time(server.close_masking)
        for name, player in alive.items():
            answer = player.answer(player.role.unmask, self._sent(requests, name), UnmaskRequest)
            self._accept(server.accept_revealed, name, answer, RevealedShares)
        total = self._server_watch.time(server.finish)
        mask = np.uint32((1 << self._announcement.word_bits) - 1)
        assert np.array_equal(total.words, expected & mask), "the sum is wrong"
        assert len(total.participants) == len(alive)

    @property
    def device_ms(self) -> float:
        """What a device that stays to the end spends, the median over devices."""
        return median(player.watch.ms for name, player in self._players.items() if name not in self._lost)

    @property
    def server_ms(self) -> float:
        """What the server spends."""
        return self._server_watch.ms

    @staticmethod
    def _masked(role: DeviceRole, delivery: ShareDelivery, words: NDArray[np.uint32]) -> MaskedInput:
        role.accept(delivery, model_hash=bytes(32), config_hash=bytes(32))
        return role.mask(words)

    def _keep_one_cohort(self, role: DeviceRole) -> None:
        """Let all devices of this process hold the same list of devices: 10 000 lists of 10 000 would not fit in memory."""
        settled = role._cohort  # noqa: SLF001 - as above; on a real device it is the only one
        assert settled is not None
        self._cohort = self._cohort or settled.cohort
        assert settled.cohort.graph_hash == self._cohort.graph_hash
        settled.cohort = self._cohort
        self._sharers = self._sharers or settled.sharers
        assert settled.sharers == self._sharers
        settled.sharers = self._sharers

    def _accept(
        self,
        accept: Callable[[DeviceId, MessageT], None],
        name: DeviceId,
        content: bytes,
        kind: type[MessageT],
    ) -> None:
        self._server_watch.time(lambda: accept(name, decode(content, kind)))

    def _sent(self, messages: Mapping[DeviceId, Struct], name: DeviceId) -> bytes:
        return self._server_watch.time(lambda: encode(messages[name]))
