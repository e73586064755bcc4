"""How far the server may move a model: never out of the ball in which devices let themselves be trained and asked.

A device accepts parameters within `trust_radius` (L2) of its anchor, the last release that a person approved and that it has installed;
one on which nobody approved anything, of the first that it installed. Beyond, a unit can be made that answers for one window alone. The
same ball bounds how far poisoners can lead a model in a run.

The fleet says which releases a person approved. What it cannot say is which of them a device had first; so the model stays within the
radius of the release that runs as well as of the one that was approved last: the smaller region is in both.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.ports import ReleaseRecord

__all__ = ["anchor_release", "project"]

_INSIDE: Final = 1.0 - 1e-5
"""Of the radius: a device measures the distance of parameters that were rounded to float32."""

_MOST_TURNS: Final = 100
"""Of going to and fro between balls that overlap; in as many the distance to both is within the rounding of float32."""


def project(
    parameters: NDArray[np.floating], anchors: NDArray[np.floating], radius: float
) -> NDArray[np.float32]:
    """The parameters (P,), moved no further than it takes to lie within `radius` of each of the `anchors` (k, P).

    Source: successive projection on convex sets (Bregman, 1965).

    >>> project(np.array([3.0, 4.0]), np.zeros((1, 2)), 1.0).round(3)
    array([0.6, 0.8], dtype=float32)
    """
    moved, limit = np.asarray(parameters, np.float64), radius * _INSIDE
    for _ in range(_MOST_TURNS):
        distances = np.linalg.norm(moved - anchors, axis=1)
        worst = int(np.argmax(distances))
        if distances[worst] <= limit:
            break
        moved = anchors[worst] + (moved - anchors[worst]) * (limit * _INSIDE / distances[worst])
    return moved.astype(np.float32)


def anchor_release(releases: Iterable[ReleaseRecord], champion: str) -> ReleaseRecord | None:
    """The release that devices of the champion hold on to, as far as the fleet knows: approved last, up to it; else the first of all.

    None: it is the champion itself, or not in the list.
    """
    standing = sorted((r for r in releases if not r.is_withdrawn), key=lambda record: record.version)
    up_to = [record for record in standing if record.version <= _version(standing, champion)]
    approved = [record for record in up_to if record.is_approved]
    found = approved[-1] if approved else up_to[0] if up_to else None
    return None if found is None or found.release == champion else found


def _version(releases: Iterable[ReleaseRecord], release: str) -> int:
    return next((record.version for record in releases if record.release == release), 0)
