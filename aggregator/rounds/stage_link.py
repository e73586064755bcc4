"""The road to the devices for secure sums: one message to each device, one message back, stage by stage.

Beside `cohort_link` (a question to all, a vector from each), because here every device is sent something of its own and what
comes back means nothing by itself. Flower implements it (`aggregator.flower.stage_link`); tests answer in-process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.cohort_link import DeviceLink, Ticket
from protocol.names import DeviceId

__all__ = ["StageLink", "StageRequest"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRequest:
    """What goes out in one stage.

    `kind` is a `protocol.sum_terms.SumStage` or, for the masked input, the question's own. `messages` is the role's message
    for each device; `terms`, `question` and `arrays` are the same for all and empty where the stage has none.
    """

    kind: str
    messages: Mapping[DeviceId, bytes]
    terms: str = ""
    question: str = ""
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class StageLink(DeviceLink[bytes], Protocol):
    """Sends and hears the roles' messages; decides nothing."""

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        """Send each device its message; devices missing from the result could not be asked.

        Raises:
            FlowerRunEndedError: the run takes no more questions.
        """
