"""How a family's runs go from round to round: how many, how long devices are waited for, and what the server does with a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

__all__ = ["RoundSettings"]

Seconds = Annotated[float, Meta(gt=0)]
Above = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class RoundSettings(Struct, frozen=True, kw_only=True):
    """``[family.rounds]``.

    A run begins when the wanted devices have joined, when the quorum has and nobody new came for `join_settle_s`, or after
    `join_timeout_s`.

    Attributes:
        count: rounds of a run. 0: nothing is trained, the fleet's prior is made anew (of a family that judges by one).
        attempts: so many void rounds in a row end the run.
        deadline_s: then a round goes on with who has answered.
        minimum_windows: fewest windows to join with; each device has one vote, so ask for enough to learn from.
        join_timeout_s: longest wait for devices.
        join_settle_s: wait for more once the quorum is there.
        join_spread_s: arrivals are spread over this time.
        server_optimizer: what moves the model by the mean update (`aggregator.rounds.optimizers`).
        server_learning_rate: None takes the optimiser's own.
    """

    GONE: ClassVar[Mapping[str, str]] = {
        "norm_limit": "it is training.update_norm now, which devices read in their release; left out, it is a fifth of the trust radius"
    }

    count: Annotated[int, Meta(ge=0, le=1000)] = 5
    attempts: Count = 3
    deadline_s: Seconds = 120.0
    minimum_windows: Count = 10
    join_timeout_s: Seconds = 120.0
    join_settle_s: Seconds = 15.0
    join_spread_s: Annotated[float, Meta(ge=0)] = 0.0
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    server_learning_rate: Above | None = None
