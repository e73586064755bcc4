"""Rounds as an aggregator may play them that obeys no rule: what it asks, and what it does with the stages of a secure sum.

::

    Asked ─► advertise ─► share ─► mask ─► [confirm] ─► unmask          to each device of the cohort; a lie may bend, repeat, or skip
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from recorded_device import RecordedDevice, content_of

from edge_agent.learner.flower_internals import Message, RecordDict
from protocol.names import DeviceId
from protocol.secure_sum import messages
from protocol.secure_sum.errors import SecureSumError
from protocol.secure_sum.server_role import SecureSum, ServerPolicy, ServerRole
from protocol.sum_terms import SumStage, hash_arrays, hash_question

Float = NDArray[np.float32]
Sent = tuple[str, RecordDict]
"""A Flower message type and its content."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One attempt at one question.

    Attributes:
        session: of this attempt.
        kind: the question's, and its message type.
        question: as JSON; need not parse.
        terms: as JSON; need not parse.
        arrays: what goes with it.
        word_bits: announced.
        word_count: announced.
        round_number: announced.
        cohort: which of the world's devices are asked.
        silent: which of them fall silent once they have shared their keys.
        lie: the name of what is done to device 0, of `LIES`.
        requires_confirmation: whether survivors are compared.
        is_taken: whether devices are told that somebody waits for their answers; an update that nobody took enters a later round.
    """

    session: str
    kind: str
    question: str
    terms: str
    arrays: Mapping[str, Float]
    word_bits: int
    word_count: int
    round_number: int = 1
    cohort: tuple[int, ...] = (0, 1, 2)
    silent: tuple[int, ...] = ()
    lie: str = "none"
    requires_confirmation: bool = False
    is_taken: bool = True

    def announcement(self) -> messages.Announcement:
        return messages.Announcement(
            session=self.session,
            round_number=self.round_number,
            model_hash=hash_arrays(self.arrays),
            config_hash=hash_question(self.question, self.terms),
            word_bits=self.word_bits,
            word_count=self.word_count,
            requires_confirmation=self.requires_confirmation,
        )


Lie = Callable[[Asked, str, messages.Message], list[Sent]]


def _honest(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
    content = messages.encode(message)
    if kind == SumStage.ADVERTISE:
        return [(kind, content_of(content, terms=asked.terms))]
    if kind == asked.kind:
        return [(kind, content_of(content, question=asked.question, arrays=asked.arrays))]
    return [(kind, content_of(content))]


def _bend(stage: str, change: Callable[[Asked, messages.Message], messages.Message]) -> Lie:
    def lie(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
        at = asked.kind if stage == "mask" else stage
        return _honest(asked, kind, change(asked, message) if kind == at else message)

    return lie


def _repeat(stage: str) -> Lie:
    def lie(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
        at = asked.kind if stage == "mask" else stage
        return _honest(asked, kind, message) * (2 if kind == at else 1)

    return lie


def _skip(stage: str) -> Lie:
    def lie(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
        at = asked.kind if stage == "mask" else stage
        return [] if kind == at else _honest(asked, kind, message)

    return lie


def _garble(stage: str) -> Lie:
    def lie(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
        at = asked.kind if stage == "mask" else stage
        if kind != at:
            return _honest(asked, kind, message)
        sent = _honest(asked, kind, message)[0][1]
        sent.config_records["sum"]["message"] = b"\xff" + messages.encode(message)[1:]
        return [(kind, sent)]

    return lie


def _other_model(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
    if kind != asked.kind:
        return _honest(asked, kind, message)
    arrays = {name: vector + np.float32(1) for name, vector in asked.arrays.items()} or {
        "more": np.zeros(1, np.float32)
    }
    return [(kind, content_of(messages.encode(message), question=asked.question, arrays=arrays))]


def _other_question(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
    if kind != asked.kind:
        return _honest(asked, kind, message)
    question = asked.question.replace("run-1", "run-2")
    return [(kind, content_of(messages.encode(message), question=question, arrays=asked.arrays))]


def _in_plain(asked: Asked, kind: str, message: messages.Message) -> list[Sent]:
    sent = _honest(asked, kind, message)
    if kind == asked.kind:
        del sent[0][1]["sum"]
    return sent


def _bits(count: int, *positions: int) -> bytes:
    return messages.pack_positions(positions, count)


LIES: Final[Mapping[str, Lie]] = {
    "none": _honest,
    "in plain": _in_plain,
    "another model": _other_model,
    "another question": _other_question,
    **{f"{name} twice": _repeat(stage) for name, stage in (("advertise", SumStage.ADVERTISE.value), ("share", SumStage.SHARE.value), ("mask", "mask"), ("unmask", SumStage.UNMASK.value))},
    **{f"{name} left out": _skip(stage) for name, stage in (("advertise", SumStage.ADVERTISE.value), ("share", SumStage.SHARE.value), ("mask", "mask"))},
    **{f"{name} garbled": _garble(stage) for name, stage in (("advertise", SumStage.ADVERTISE.value), ("share", SumStage.SHARE.value), ("mask", "mask"), ("unmask", SumStage.UNMASK.value))},
    "few sharers": _bend("mask", lambda _, m: msgspec.structs.replace(m, sharers=_bits(3, 0, 1), seals=m.seals[:1])),
    "one sharer": _bend("mask", lambda _, m: msgspec.structs.replace(m, sharers=_bits(3, 0), seals=())),
    "no sharers": _bend("mask", lambda _, m: msgspec.structs.replace(m, sharers=b"", seals=())),
    "without itself": _bend("mask", lambda _, m: msgspec.structs.replace(m, sharers=_bits(3, 1, 2))),
    "seal missing": _bend("mask", lambda _, m: msgspec.structs.replace(m, seals=m.seals[1:])),
    "seal doubled": _bend("mask", lambda _, m: msgspec.structs.replace(m, seals=m.seals + m.seals[:1])),
    "seal broken": _bend("mask", lambda _, m: msgspec.structs.replace(m, seals=tuple(messages.SealedShare(s.peer, bytes(len(s.seal))) for s in m.seals))),
    "seal empty": _bend("mask", lambda _, m: msgspec.structs.replace(m, seals=tuple(messages.SealedShare(s.peer, b"0") for s in m.seals))),
    "another session": _bend("mask", lambda _, m: msgspec.structs.replace(m, session="another-session")),
    "another round": _bend("mask", lambda _, m: msgspec.structs.replace(m, round_number=m.round_number + 1)),
    "low threshold": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, threshold=1)),
    "high threshold": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, threshold=9)),
    "stranger in the cohort": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, cohort=(*m.cohort[:-1], "zz"))),
    "small cohort": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, cohort=m.cohort[:2], digests=m.digests[:64], neighbours=m.neighbours[:1])),
    "other keys": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, digests=bytes(32) + m.digests[32:])),
    "cohort out of order": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, cohort=m.cohort[::-1])),
    "neighbour missing": _bend(SumStage.SHARE.value, lambda _, m: msgspec.structs.replace(m, neighbours=m.neighbours[1:])),
    "few survivors": _bend(SumStage.UNMASK.value, lambda _, m: msgspec.structs.replace(m, survivors=_bits(3, 0, 1), dropped=_bits(3, 2))),
    "not a survivor": _bend(SumStage.UNMASK.value, lambda _, m: msgspec.structs.replace(m, survivors=_bits(3, 1, 2), dropped=_bits(3, 0))),
    "both lists": _bend(SumStage.UNMASK.value, lambda _, m: msgspec.structs.replace(m, dropped=_bits(3, 0, 1, 2))),
    "another session at the end": _bend(SumStage.UNMASK.value, lambda _, m: msgspec.structs.replace(m, session="another-session")),
    "words misannounced": _bend(SumStage.ADVERTISE.value, lambda _, m: msgspec.structs.replace(m, word_count=m.word_count + 1)),
}  # fmt: skip
"""What is done to device 0 at which stage; the others are told the truth."""


@dataclass
class Aggregator:
    """Plays one attempt with devices that are at hand; believes nothing and stops at nothing."""

    devices: Mapping[DeviceId, RecordedDevice]
    victim: DeviceId
    policy: ServerPolicy = field(default_factory=ServerPolicy)

    def play(self, asked: Asked) -> SecureSum | None:
        """Ask; returns the sum where it came to one."""
        names = [name for at, name in enumerate(sorted(self.devices)) if at in asked.cohort]
        silent = {name for at, name in enumerate(sorted(self.devices)) if at in asked.silent}
        roster = {name: self.devices[name].public_key for name in names}
        policy = replace(self.policy, dropout_fraction=len(silent) / len(names))
        try:
            server = ServerRole(asked.announcement(), roster=roster, policy=policy)
            self._stage(
                asked,
                SumStage.ADVERTISE.value,
                dict.fromkeys(names, asked.announcement()),
                messages.Advertisement,
                server.accept_advertisement,
            )
            self._stage(
                asked,
                SumStage.SHARE.value,
                server.close_advertising(),
                messages.SealedShares,
                server.accept_shares,
            )
            deliveries = {name: each for name, each in server.close_sharing().items() if name not in silent}
            self._stage(asked, asked.kind, deliveries, messages.MaskedInput, server.accept_masked_input)
            following = server.close_masking()
            if asked.requires_confirmation:
                self._stage(
                    asked,
                    SumStage.CONFIRM.value,
                    following,
                    messages.SurvivorConfirmation,
                    server.accept_confirmation,
                )
                following = server.close_confirming()
            self._stage(
                asked, SumStage.UNMASK.value, following, messages.RevealedShares, server.accept_revealed
            )
            return server.finish()
        except SecureSumError:
            return None

    def _stage(
        self, asked: Asked, kind: str, to: Mapping[DeviceId, messages.Message], answer: type, accept: Callable
    ) -> None:
        for name, message in to.items():
            lie = LIES[asked.lie] if name == self.victim else _honest
            for sent_kind, content in lie(asked, kind, message):
                reply = self.devices[name].hear(sent_kind, content)
                said = _message_of(reply, answer)
                if said is None:
                    continue
                try:
                    accept(name, said)
                except SecureSumError:
                    continue


def _message_of(reply: Message, kind: type) -> messages.Message | None:
    if reply.has_error() or "sum" not in reply.content.config_records:
        return None
    try:
        return messages.decode(reply.content.config_records["sum"]["message"], kind)
    except SecureSumError:
        return None
