"""One question to a cohort of devices: the values that go in and come out, and the port to the devices.

Not a policy: who is asked, how often and what is done with the sum is decided elsewhere. A device answers with one
flat float32 vector (`protocol.questions`), or fails with a reason, or is never heard of again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NewType, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.questions import Question

__all__ = ["CohortLink", "DeviceLink", "DeviceReply", "Ticket"]

Content = TypeVar("Content")

Ticket = NewType("Ticket", str)
"""One question to one device, as the link names it."""


@dataclass(frozen=True, kw_only=True)
class DeviceReply(Generic[Content]):
    """What came back for one ticket: `content`, or `failure` (a reason in words) where there is none.

    `lost` is true where the device never answered (it went offline); then `failure` says so.
    """

    ticket: Ticket
    device: DeviceId
    content: Content | None = None
    failure: str = ""
    lost: bool = False


class DeviceLink(Protocol[Content]):
    """The way back from the devices; how they are asked differs (`CohortLink`, `aggregator.rounds.stage_link`)."""

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[Content]]:
        """Replies that are complete by now, each once; waits up to `wait_s` for something to happen."""

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        """Stop waiting for these; whatever still comes for them is dropped."""


class CohortLink(DeviceLink[NDArray[np.float32]], Protocol):
    """The road to the devices. Flower implements it (`aggregator.flower.link`); tests answer in-process."""

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        lifetime_s: float,
        answer_size: int,
    ) -> dict[Ticket, DeviceId]:
        """Put the question to each device; devices missing from the result could not be asked.

        Args:
            devices: who is asked.
            question: what.
            arrays: the vectors that go with it.
            lifetime_s: how long an answer is waited for.
            answer_size: entries of an answer; nobody may send more.

        Raises:
            FlowerRunEndedError: the run takes no more questions.
        """
