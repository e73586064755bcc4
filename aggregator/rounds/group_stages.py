"""The stages of a secure round, passed by all groups of its cohort together.

A stage ends when no group has an answer to wait for, or at its deadline; so the slowest group sets the pace, and groups cost no more
time than one cohort does. Each device is sent what its own group's role has for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from aggregator.rounds.group_attempt import GroupAttempt
from aggregator.rounds.stage_link import StageRequest
from aggregator.rounds.stage_passer import StagePasser
from protocol.names import DeviceId
from protocol.questions import Kind
from protocol.secure_sum import messages
from protocol.secure_sum.server_role import ServerRole
from protocol.sum_terms import SumStage

__all__ = ["GroupStages"]

Message = TypeVar("Message", bound=messages.Message)
Settled = Callable[[frozenset[DeviceId]], bool]


class GroupStages:
    """Passes the stages of one attempt.

    Args:
        groups: those of the cohort; who fails at a stage is sent nothing at the next.
        passer: the road.
    """

    def __init__(self, groups: Sequence[GroupAttempt], passer: StagePasser) -> None:
        self._groups, self._passer = groups, passer
        self._of = {device: group for group in groups for device in group.group.devices}

    def close(self, close: Callable[[ServerRole], Mapping[DeviceId, messages.Message]]) -> None:
        """End a stage in each group by `close`."""
        for group in self._groups:
            group.advance(close)

    def announce(self, *, deadline_s: float) -> None:
        """The first stage: everybody is told of the round and its terms."""
        for group in self._groups:
            group.outgoing = dict.fromkeys(sorted(group.role.expected), group.announcement)
        requests = [
            StageRequest(kind=SumStage.ADVERTISE.value, messages=sent, terms=group.terms)
            for group, sent in self._bundled(lambda group: group.terms)
        ]
        self._run(requests, messages.Advertisement, ServerRole.accept_advertisement, deadline_s=deadline_s)

    def ask(self, kind: Kind, *, deadline_s: float) -> None:
        """The stage in which devices work: the question goes out, masked answers come back."""
        # Groups of different sizes may have words of different lengths.
        bits = max(g.announcement.word_bits * g.announcement.word_count for g in self._groups)
        requests = [
            StageRequest(
                kind=kind,
                messages=sent,
                question=group.question,
                arrays=group.arrays,
                vector_bytes=bits // 8 + 1,
            )
            for group, sent in self._bundled(lambda group: (group.question, id(group.arrays)))
        ]

        def accept(role: ServerRole, device: DeviceId, masked: messages.MaskedInput) -> None:
            role.accept_masked_input(device, masked)
            self._of[device].masked.append(device)

        self._run(requests, messages.MaskedInput, accept, deadline_s=deadline_s, grace_s=0.0)

    def run(
        self,
        stage: SumStage,
        message: type[Message],
        accept: Callable[[ServerRole, DeviceId, Message], None],
        *,
        deadline_s: float,
        is_settled: Settled | None = None,
        grace_s: float | None = None,
    ) -> None:
        """Any other stage.

        Args:
            stage: which.
            message: what a device answers with.
            accept: how the role takes it.
            deadline_s: seconds from now.
            is_settled: told whose answers are out; default: whether all groups are.
            grace_s: this stage's own wait for stragglers, instead of the round's.
        """
        requests = [
            StageRequest(kind=stage.value, messages=sent) for _, sent in self._bundled(lambda _: None)
        ]
        self._run(requests, message, accept, deadline_s=deadline_s, is_settled=is_settled, grace_s=grace_s)

    def _bundled(
        self, said: Callable[[GroupAttempt], object]
    ) -> list[tuple[GroupAttempt, dict[DeviceId, bytes]]]:
        """One request for all groups that are told the same beside their messages: it is written once for the road."""
        found: dict[object, tuple[GroupAttempt, dict[DeviceId, bytes]]] = {}
        for group in self._groups:
            if group.outgoing:
                _, sent = found.setdefault(said(group), (group, {}))
                sent |= {device: messages.encode(one) for device, one in group.outgoing.items()}
        return list(found.values())

    def _run(
        self,
        requests: Sequence[StageRequest],
        message: type[Message],
        accept: Callable[[ServerRole, DeviceId, Message], None],
        *,
        deadline_s: float,
        is_settled: Settled | None = None,
        grace_s: float | None = None,
    ) -> None:
        if not requests:
            return

        def take(device: DeviceId, content: bytes) -> None:
            group = self._of[device]
            accept(group.role, device, messages.decode(content, message))
            group.taken += 1

        self._passer.run(
            requests, take, deadline_s=deadline_s, is_enough=is_settled or self._are_settled, grace_s=grace_s
        )

    def _are_settled(self, waiting: frozenset[DeviceId]) -> bool:
        return all(group.is_settled(waiting) for group in self._groups if group.is_alive)
