"""One group's secure sum in one attempt: its session, its role, its place in the ledger, and what came of it.

A cohort that is not asked in groups is one group. A group fails by itself: its `failure` says why, the others go on
(`secure_collector`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError
from aggregator.privacy.ledger_entries import RoundId
from aggregator.rounds.cohorts import Group
from aggregator.rounds.noise_floor import drop_noise_floor
from aggregator.rounds.reports import GroupSum
from aggregator.rounds.runs import GroupRecord
from aggregator.rounds.sum_checks import check_sum
from protocol.errors import ProtocolError
from protocol.names import DeviceId
from protocol.questions import AnswerLayout, Kind
from protocol.secure_answers import AnswerEncoding, NoisedEncoding
from protocol.secure_sum import messages
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.server_role import SecureSum, ServerRole

__all__ = ["GroupAttempt"]


@dataclass(kw_only=True, eq=False)
class GroupAttempt:
    """Where one group stands.

    `question`, `terms` and `arrays` are what its devices are asked; `role` adds up; `round_id` names it in the ledger. `taken` counts
    the answers of the present stage. `survivors` are set as soon as anybody is asked to unmask; `result` and `clip_bits` at the end.
    `taken_as` is the size that a noised sum is read as being of, with the noise of all devices of the terms, where nobody outside may
    learn its own (`aggregator.privacy.poisson_draws`); None: its own.
    """

    group: Group
    kind: Kind
    question: str
    terms: str
    arrays: Mapping[str, NDArray[np.float32]]
    layout: AnswerLayout
    encoding: AnswerEncoding
    announcement: messages.Announcement
    role: ServerRole
    round_id: RoundId
    random_bytes: RandomBytes
    taken_as: int | None = None
    taken: int = 0
    survivors: tuple[DeviceId, ...] = ()
    masked: list[DeviceId] = field(default_factory=list)
    found: SecureSum | None = None
    result: GroupSum | None = None
    clip_bits: float | None = None
    failure: Exception | None = None
    outgoing: Mapping[DeviceId, messages.Message] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people: ``group 2 (press-004 … press-007)``."""
        ends = (self.group.devices[0], self.group.devices[-1])
        return f"group {self.round_id.group} ({' … '.join(ends)})"

    @property
    def is_alive(self) -> bool:
        """Whether it may still give a sum."""
        return self.failure is None

    @property
    def record(self) -> GroupRecord:
        """For the run's record."""
        inside = self.found.participants if self.found else ()
        name = "" if isinstance(self.failure, AnswerRefusedError) else f"{type(self.failure).__name__}: "
        why = "" if self.failure is None else f"{name}{self.failure}"
        return GroupRecord(devices=self.group.devices, participants=inside, left_out=why)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What ends this group in here does not end the others."""
        try:
            yield
        except (ProtocolError, AnswerRefusedError) as failure:
            self.failure = failure

    def is_settled(self, waiting: frozenset[DeviceId]) -> bool:
        """Whether no answer of this stage needs to be waited for: enough are in, or enough can no longer come."""
        out = sum(device in waiting for device in self.group.devices)
        return self.taken >= self.group.target or not out or self.taken + out < self.group.quorum

    def advance(self, close: Callable[[ServerRole], Mapping[DeviceId, messages.Message]]) -> None:
        """Close a stage; what the next one sends is in `outgoing`, nothing where the group failed."""
        self.outgoing, self.taken = {}, 0
        if self.is_alive:
            with self.failing():
                self.outgoing = close(self.role)

    def finish(self) -> None:
        """Take the masks off and read the sum."""
        if not self.is_alive:
            return
        with self.failing():
            self.found = found = self.role.finish()
            words, count = found.words, len(found.participants)
            most = count
            if self.taken_as is not None and isinstance(self.encoding, NoisedEncoding):
                words = self.encoding.add_missing_noise(words, count, self.random_bytes)
                # Whether it may be a sum must not tell how many are in it either.
                count, most = self.taken_as, self.encoding.devices
            total = self.encoding.decode(words, most)
            check_sum(self.kind, self.layout.unpack(total), most, self.encoding.precision)
            if count != most:
                total = self.encoding.decode(words, count)
            if isinstance(self.encoding, NoisedEncoding):
                self.clip_bits = self.encoding.clip_bits(words, count)
                total = drop_noise_floor(total, self.layout, self.encoding)
            self.result = GroupSum(participants=found.participants, total=total)
