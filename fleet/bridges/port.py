"""What a bridge is to the loop that drives it, and how it fails."""

from __future__ import annotations

from typing import Protocol

from runtime.errors import FedgeError

__all__ = ["Bridge", "BridgeError"]


class BridgeError(FedgeError):
    """The other side did not take it; asking again may help."""


class Bridge(Protocol):
    """Carries what is new, a bounded piece at a time."""

    def step(self) -> int:
        """Carry the next piece and note that it is there; how many things were carried, 0: nothing is new.

        Raises:
            BridgeError: the other side did not take it.
            ClientError: the fleet, or the aggregator, did not answer.
        """

    def close(self) -> None:
        """Let connections go; what is delivered stays noted."""
