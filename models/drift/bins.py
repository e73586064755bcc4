"""Ten bins of one sensor's reference that respect what its values are: single values that recur, and stretches between.

A value that holds at least a twentieth of the reference (and four windows) is an *atom*: a flag, a rest position, "no
rain". It has a bin of its own; what lies between atoms is divided into bins of about a tenth each. Edges lie half-way
between neighbouring values, so that no two values are ever called equal by a tolerance: they are equal or they are not.

    0 0 0 0 0 0 | .3 .7 | 1.1 1.9 | 2.4 7.0        an atom of six tenths, and stretches of a tenth or two

Bins have their real masses. One that is there for values nobody has seen (beyond an atom at the end) has mass 0, and so
have those left over where ten are not needed: their two edges are equal, and no value falls into them.

Invariants: 9 edges ascend, 10 masses add up to 1; a value x lies in bin i where edges[i-1] ≤ x < edges[i].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["BINS", "SMALLEST_STD", "Bins", "atoms_of", "fit_bins"]

BINS: Final = 10
"""Ten keep a sensor's state small and PSI readable."""

SMALLEST_STD: Final = 1e-3
"""In units of the standardised feature: a constant sensor must not turn rounding noise into drift."""

_ATOM_SHARE: Final = 0.05
_ATOM_ROWS: Final = 4
"""By count: of a short reference four equal values may be chance, and more hardly."""

Values = NDArray[np.float32]


class Bins(Struct, frozen=True, kw_only=True):
    """One sensor's bins.

    `edges` are the 9 inner ones, `masses` the reference's share in each of the 10 bins, `atoms` the indices of those
    whose values count as one; `tails` is how far, on average, windows below the first used edge and above the last
    lie beyond it, ≥ 0.
    """

    edges: tuple[float, ...]
    masses: tuple[float, ...] = (1.0 / BINS,) * BINS
    atoms: tuple[int, ...] = ()
    tails: tuple[float, float] = (0.0, 0.0)


@dataclass(kw_only=True)
class _Bin:
    first: int  # index of its lowest distinct value
    count: int
    is_atom: bool


def atoms_of(values: Values) -> Values:
    """The values that hold enough of a sensor's windows (n,) to count as one each, ascending."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[_are_atoms(counts)]


def fit_bins(values: Values) -> Bins:
    """Bins of one sensor's reference windows (n,), n ≥ 20, in any order."""
    distinct, counts = np.unique(values, return_counts=True)
    bins = _divided(counts, _are_atoms(counts))
    between = ((distinct[1:].astype(np.float64) + distinct[:-1]) / 2).astype(np.float32)
    between = np.where(between > distinct[:-1], between, distinct[1:])  # neighbours in float32 have no middle
    edges = [float(between[b.first - 1]) for b in bins[1:]]
    width = SMALLEST_STD if len(between) == 0 else None
    masses = [b.count / len(values) for b in bins]
    atoms = [i for i, b in enumerate(bins) if b.is_atom]
    if bins[0].is_atom:
        gap = width or max(float(between[0] - distinct[0]), SMALLEST_STD)
        edges.insert(0, float(distinct[0]) - gap)
        masses.insert(0, 0.0)
        atoms = [i + 1 for i in atoms]
    if bins[-1].is_atom:
        gap = width or max(float(distinct[-1] - between[-1]), SMALLEST_STD)
        edges.append(float(distinct[-1]) + gap)
        masses.append(0.0)
    missing = BINS - len(masses)
    return Bins(
        edges=(*edges, *[edges[-1]] * missing),
        masses=(*masses[:-1], *[0.0] * missing, masses[-1]),
        atoms=tuple(atoms),
        tails=(_beyond(edges[0] - values), _beyond(values - edges[-1])),
    )


def _are_atoms(counts: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(counts >= max(_ATOM_SHARE * counts.sum(), _ATOM_ROWS))


def _divided(counts: NDArray[np.intp], is_atom: NDArray[np.bool_]) -> list[_Bin]:
    """Distinct values in ascending order, with their counts, as atoms and stretches of about a tenth; ten at most."""
    borders = np.flatnonzero(np.diff(is_atom) | is_atom[1:]) + 1
    runs = np.split(np.arange(len(counts)), borders)
    for wanted in range(BINS, 0, -1):
        bins = [
            each for run in runs for each in _stretch(run, counts, is_atom=is_atom[run[0]], wanted=wanted)
        ]
        if _needed(bins) <= BINS:
            return bins
    while _needed(bins) > BINS:
        i = min(range(len(bins) - 1), key=lambda i: bins[i].count + bins[i + 1].count)
        bins[i : i + 2] = [_Bin(first=bins[i].first, count=bins[i].count + bins[i + 1].count, is_atom=True)]
    return bins


def _needed(bins: list[_Bin]) -> int:
    """Beyond an atom at either end there is one more, for what was never seen."""
    return len(bins) + bins[0].is_atom + bins[-1].is_atom


def _stretch(run: NDArray[np.intp], counts: NDArray[np.intp], *, is_atom: bool, wanted: int) -> list[_Bin]:
    """One atom, or the values between two in as many bins as are their share of `wanted`."""
    total = int(counts[run].sum())
    if is_atom:
        return [_Bin(first=int(run[0]), count=total, is_atom=True)]
    parts = min(max(1, round(wanted * total / counts.sum())), len(run))
    # A value goes where the middle of its own windows lies among all of the stretch.
    part = ((np.cumsum(counts[run]) - counts[run] / 2) / total * parts).astype(int)
    members = [run[part == each] for each in np.unique(part)]
    return [_Bin(first=int(m[0]), count=int(counts[m].sum()), is_atom=False) for m in members]


def _beyond(far: NDArray[np.floating]) -> float:
    outside = far[far > 0]
    return float(outside.mean()) if len(outside) else 0.0
