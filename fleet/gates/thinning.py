"""Counts made comparable by lot: of so many events, each stays with a probability.

At a margin, canaries must look like controls. Counts that fell to two thirds do not look like two thirds of counts: they scatter less, and
more of them are zero. Controls of which every event stays with probability ⅔ do, whatever their rates and bursts (a thinned Poisson
process is one). Division instead let up to 15 % of releases pass that halve the anomalies, at a nominal 5.

The lot is a device's own, a hash of its name: the same figures give the same answer, in any order.
Source: Kingman, "Poisson Processes", 1993, §5.1.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["lots_of", "thin"]

Floats = NDArray[np.float64]

_COUNTED: Final = 64  # beyond, a binomial is a normal one to within an event


@lru_cache(maxsize=16)  # every metric of a look asks, and every look of a group
def lots_of(devices: tuple[str, ...], purpose: str = "") -> Floats:
    """(n,) a number in (0, 1) for each name, uniform over names; another `purpose` gives others. Not to be written to."""
    digests = (hashlib.blake2b(f"{purpose}\n{device}".encode(), digest_size=6).digest() for device in devices)
    lots = (np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.float64) + 0.5) / 2**48
    lots.flags.writeable = False
    return lots


def thin(counts: Floats, share: Floats | float, lots: Floats) -> Floats:
    """(n,) of `counts`, how many stay where each does with probability `share`: the binomial quantile at `lots`.

    Args:
        counts: (n,) ≥ 0, rounded to whole ones; NaN stays NaN.
        share: in [0, 1]; 1 changes nothing.
        lots: (n,) in (0, 1).
    """
    known = np.isfinite(counts)
    whole = np.where(known, np.rint(counts), 0.0)
    kept = np.broadcast_to(np.minimum(share, 1.0), whole.shape)
    spread = np.sqrt(whole * kept * (1 - kept))
    found = np.clip(np.rint(whole * kept + spread * _normal_quantile(lots)), 0.0, whole)
    few = np.flatnonzero((whole <= _COUNTED) & (kept < 1))
    if len(few):
        found[few] = _counted(whole[few], kept[few], lots[few])
    return np.where(known, found, np.nan)


def _counted(whole: Floats, kept: Floats, lots: Floats) -> Floats:
    chance = (1 - kept) ** whole
    below = chance.copy()
    found = np.zeros(len(whole))
    for k in range(int(whole.max())):
        found += lots > below
        chance = chance * (whole - k) / (k + 1) * kept / (1 - kept)
        below += chance
    return np.minimum(found, whole)


def _normal_quantile(lots: Floats) -> Floats:
    """Winitzki's inverse of erf (2008), within 0.003: less than rounding to whole events."""
    sign, tail = np.sign(lots - 0.5), np.log(4 * lots * (1 - lots))
    a = 0.147
    middle = 2 / (np.pi * a) + tail / 2
    quantile: Floats = sign * np.sqrt(2) * np.sqrt(np.sqrt(middle * middle - tail / a) - middle)
    return quantile
