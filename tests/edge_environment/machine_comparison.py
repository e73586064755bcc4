"""Are two machines' results the same? One row for each array, with the bound that its kind has.

A difference is relative to the largest magnitude of the array, so that a value near zero does not decide. Float32
kernels add in another order on another processor, and fuse multiplications with additions, so equality to the last bit is
not asked of them; of integers and of which kernels ran (XNNPACK's or the plain ones) it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOUNDS", "Comparison", "compare", "table"]

BOUNDS: Final = {"exact": 0.0, "kernels": 0.0, "steps": 1.0, "float": 1e-5, "adam": 1e-4}
"""Largest difference by kind: relative for `float` and `adam` (whose steps blow up gradients near zero, and their rounding), in int8 steps for `steps`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One array on two machines; `difference` is in the unit of its kind's bound."""

    name: str
    values: int
    difference: float
    bound: float

    @property
    def holds(self) -> bool:
        """Within the bound? A NaN is not."""
        return self.difference <= self.bound


def compare(
    host: Mapping[str, NDArray[np.generic]],
    device: Mapping[str, NDArray[np.generic]],
    *,
    left_out: str | None = None,
) -> list[Comparison]:
    """Compare the arrays of two machines by name, but for those of the kind `left_out`.

    Raises:
        ValueError: one has other names or shapes than the other, or a name without a known kind.
    """
    if host.keys() != device.keys():
        raise ValueError(f"only one of the machines computed {sorted(host.keys() ^ device.keys())}")
    return [_compare(name, host[name], device[name]) for name in host if name.partition("/")[0] != left_out]


def table(rows: Mapping[str, list[Comparison]]) -> list[str]:
    """Lines of a table: a row for each array, a column for each machine that was compared with this one."""
    lines = [
        f"{'largest difference from this machine':<68}{'bound':>9}" + "".join(f"{name:>13}" for name in rows)
    ]
    for column in zip(*rows.values(), strict=True):
        name = f"{column[0].name} ({column[0].values})"
        found = "".join(f"{row.difference:>12.1e}{' ' if row.holds else '!'}" for row in column)
        lines.append(f"{name:<68}{column[0].bound:>9.0e}{found}")
    return lines


def _compare(name: str, host: NDArray[np.generic], device: NDArray[np.generic]) -> Comparison:
    kind = name.partition("/")[0]
    if kind not in BOUNDS:
        raise ValueError(f"{name!r} begins with none of the kinds {sorted(BOUNDS)}")
    if host.shape != device.shape:
        raise ValueError(f"{name!r} has the shapes {host.shape} and {device.shape}")
    here, there = host.astype(np.float64), device.astype(np.float64)
    scale = max(float(np.abs(here).max()), 1e-30) if kind in {"float", "adam"} else 1.0
    difference = float(np.abs(here - there).max() / scale)
    return Comparison(name=name, values=host.size, difference=difference, bound=BOUNDS[kind])
