"""The road to the devices for secure sums: one message to each device, one message back, stage by stage.

Beside `cohort_link` (a question to all, a vector from each), because here every device is sent something of its own and what
comes back means nothing by itself. Flower implements it (`aggregator.flower.stage_link`); tests answer in-process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.cohort_link import DeviceLink, Ticket
from protocol.names import DeviceId

__all__ = ["StageLink", "StageRequest"]

MESSAGE_BYTES: Final = 16 * 1024
"""Of a message without vector and shares: names, a signature, Flower's envelope; ours have one or two thousand."""

NEIGHBOUR_BYTES: Final = 512
"""Two sealed shares, or two open ones, with the neighbour's name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRequest:
    """What goes out in one stage.

    `kind` is a `protocol.sum_terms.SumStage` or, for the masked input, the question's own. `messages` is the role's message
    for each device; `terms`, `question` and `arrays` are the same for all and empty where the stage has none.
    `vector_bytes` of a masked vector come back.
    """

    kind: str
    messages: Mapping[DeviceId, bytes]
    terms: str = ""
    question: str = ""
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    vector_bytes: int = 0

    @property
    def reply_bytes(self) -> int:
        """What a device needs at most for its message: a vector, or something for each of its neighbours."""
        return MESSAGE_BYTES + NEIGHBOUR_BYTES * len(self.messages) + self.vector_bytes


class StageLink(DeviceLink[bytes], Protocol):
    """Sends and hears the roles' messages; decides nothing."""

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        """Send each device its message; devices missing from the result could not be asked.

        Raises:
            FlowerRunEndedError: the run takes no more questions.
        """
