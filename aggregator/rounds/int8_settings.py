"""What the int8 model of a release shall be like."""

from __future__ import annotations

from msgspec import Struct

from models.weight_rounding import WeightScales

__all__ = ["Int8Settings"]


class Int8Settings(Struct, frozen=True, kw_only=True):
    """``[family.int8]`` of aggregator.toml and ``[int8]`` of family.toml.

    Attributes:
        weight_scales: per channel loses less, per tensor is for Edge TPUs.
        edge_tpu: bring a model compiled for Coral's Edge TPU, too.
        prune_silent_units: leave hidden units out that fire on no typical window.

    Raises:
        ValueError: a model for Edge TPUs that their compiler would not take.
    """

    weight_scales: WeightScales = "per-channel"
    edge_tpu: bool = False
    prune_silent_units: bool = False

    def __post_init__(self) -> None:
        """Refuse what no compiler takes."""
        if self.edge_tpu and self.weight_scales != "per-tensor":
            raise ValueError(
                f"edge_tpu = true needs weight_scales = 'per-tensor', not {self.weight_scales!r}: its compiler takes no other dense layer"
            )
