"""A whole secure sum in one process: real roles, real messages over bytes, devices that vanish where a test wants them to.

Not a fake of anything: only the road between the roles is replaced by function calls. Every message is written and read back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.errors import RefusedRoundError, RejectedContributionError
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
    decode,
    encode,
)
from protocol.secure_sum.server_role import SecureSum, ServerPolicy, ServerRole, ServerStage

STAGES = ("advertise", "share", "mask", "confirm", "unmask")
MODEL = hashlib.sha256(b"model").digest()
CONFIG = hashlib.sha256(b"config").digest()


class OpenPurse:
    """A budget that is never spent, and counts."""

    def __init__(self) -> None:
        self.spent = 0

    def check(self, announcement: Announcement) -> None:
        pass

    def check_cohort(self, announcement: Announcement, cohort: frozenset[DeviceId]) -> None:
        pass

    def charge(self, announcement: Announcement) -> None:
        self.spent += 1

    def reveal(self, announcement: Announcement, survivors: frozenset[DeviceId]) -> None:
        pass


def identity_of(device: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name in every test: P-256 keys take time to make."""
    scalar = int.from_bytes(hashlib.sha256(device.encode()).digest(), "big") % (2**255)
    return ec.derive_private_key(scalar, ec.SECP256R1())


def device_ids(n: int) -> list[DeviceId]:
    return [DeviceId(f"d{i:05d}") for i in range(n)]


def roster_of(devices: Collection[DeviceId]) -> dict[DeviceId, ec.EllipticCurvePublicKey]:
    return {device: identity_of(device).public_key() for device in devices}


def announcement(word_count: int, *, word_bits: int = 32, **changes: Any) -> Announcement:
    figures = {
        "session": "session-0001",
        "round_number": 7,
        "model_hash": MODEL,
        "config_hash": CONFIG,
        "word_bits": word_bits,
        "word_count": word_count,
    }
    return Announcement(**(figures | changes))


def seeded_bytes(seed: object) -> Any:
    """Deterministic stand-in for the operating system's generator."""
    return random.Random(repr(seed)).randbytes


def through_the_wire(message: Any, kind: Any) -> Any:
    return decode(encode(message), kind)


@dataclass
class Rehearsal:
    """One attempt at one round.

    `vanish` maps a stage to the devices that do not answer it, nor anything after it. `roles` may hold prepared devices.
    """

    announcement: Announcement
    vectors: Mapping[DeviceId, NDArray[np.uint32]]
    vanish: Mapping[str, Collection[DeviceId]] = field(default_factory=dict)
    server_policy: ServerPolicy = field(default_factory=ServerPolicy)
    device_policy: DevicePolicy = field(default_factory=DevicePolicy)
    roles: dict[DeviceId, DeviceRole] = field(default_factory=dict)
    refusals: dict[DeviceId, RefusedRoundError] = field(default_factory=dict)
    rejections: dict[DeviceId, RejectedContributionError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roster = roster_of(self.vectors)
        self.server = ServerRole(self.announcement, roster=roster, policy=self.server_policy)
        for device in self.vectors:
            if device not in self.roles:
                self.roles[device] = new_device(
                    device, roster=roster, policy=self.device_policy, session=self.announcement.session
                )
        self.to_devices: dict[DeviceId, Any] = {}

    def advertise(self) -> None:
        for device in self._present("advertise", self.vectors):
            sent = through_the_wire(self.announcement, Announcement)
            self._answer(
                device, self.roles[device].advertise, sent, Advertisement, self.server.accept_advertisement
            )
        self.to_devices = dict(self.server.close_advertising())

    def share(self) -> None:
        for device, book in self._arriving("share", CohortBook):
            self._answer(device, self.roles[device].share_keys, book, SealedShares, self.server.accept_shares)
        self.to_devices = dict(self.server.close_sharing())

    def mask(self) -> None:
        for device, delivery in self._arriving("mask", ShareDelivery):

            def masked(message: ShareDelivery, device: DeviceId = device) -> MaskedInput:
                self.roles[device].accept(message, model_hash=MODEL, config_hash=CONFIG)
                return self.roles[device].mask(self.vectors[device])

            self._answer(device, masked, delivery, MaskedInput, self.server.accept_masked_input)
        self.to_devices = dict(self.server.close_masking())

    def confirm(self) -> None:
        for device, listed in self._arriving("confirm", SurvivorList):
            self._answer(
                device,
                self.roles[device].confirm,
                listed,
                SurvivorConfirmation,
                self.server.accept_confirmation,
            )
        self.to_devices = dict(self.server.close_confirming())

    def unmask(self) -> None:
        for device, request in self._arriving("unmask", UnmaskRequest):
            self._answer(
                device, self.roles[device].unmask, request, RevealedShares, self.server.accept_revealed
            )

    def play(self) -> SecureSum:
        self.advertise()
        self.share()
        self.mask()
        if self.server.stage is ServerStage.CONFIRMATIONS:
            self.confirm()
        self.unmask()
        return self.server.finish()

    def _gone(self, stage: str) -> set[DeviceId]:
        return {
            device for earlier in STAGES[: STAGES.index(stage) + 1] for device in self.vanish.get(earlier, ())
        }

    def _present(self, stage: str, devices: Collection[DeviceId]) -> list[DeviceId]:
        return [device for device in devices if device not in self._gone(stage)]

    def _arriving(self, stage: str, kind: Any) -> list[tuple[DeviceId, Any]]:
        return [
            (device, through_the_wire(self.to_devices[device], kind))
            for device in self._present(stage, self.to_devices)
        ]

    def _answer(self, device: DeviceId, ask: Any, message: Any, kind: Any, accept: Any) -> None:
        try:
            answer = ask(message)
        except RefusedRoundError as refusal:
            self.refusals[device] = refusal
            return
        try:
            accept(device, through_the_wire(answer, kind))
        except RejectedContributionError as rejection:
            self.rejections[device] = rejection


def new_device(
    device: DeviceId,
    *,
    roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
    policy: DevicePolicy | None = None,
    session: str = "session-0001",
    kind: type[DeviceRole] = DeviceRole,
    budget: Any = None,
) -> DeviceRole:
    return kind(
        device,
        identity_key=identity_of(device),
        roster=roster,
        policy=policy or DevicePolicy(),
        budget=budget or OpenPurse(),
        random_bytes=seeded_bytes((device, session)),
    )


def random_vectors(
    devices: Collection[DeviceId], d: int, seed: int = 1
) -> dict[DeviceId, NDArray[np.uint32]]:
    rng = np.random.default_rng(seed)
    return {device: rng.integers(0, 2**32, d, dtype=np.uint32) for device in devices}


def plain_sum(
    vectors: Mapping[DeviceId, NDArray[np.uint32]], participants: Collection[DeviceId], word_bits: int
) -> NDArray[np.uint32]:
    """The naive twin: add the integers, reduce, without a mask anywhere."""
    d = len(next(iter(vectors.values())))
    total = [0] * d
    for device in participants:
        total = [a + int(b) for a, b in zip(total, vectors[device], strict=True)]
    return np.array([value % 2**word_bits for value in total], np.uint32)
