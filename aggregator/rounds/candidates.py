"""A model that somebody means to release: everything its release says, and how its int8 model is to be made."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.int8_settings import Int8Settings
from models.export.release import ReleaseContent

__all__ = ["Candidate"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate(ReleaseContent):
    """Content of a release that nobody has judged yet.

    `probes` are typical windows (n, F) for the bias correction of the int8 model; None leaves its biases alone. Silent units
    are those that fire on none of them.
    """

    int8: Int8Settings = field(default_factory=Int8Settings)
    probes: NDArray[np.float32] | None = None
