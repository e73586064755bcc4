"""One machine of a benchmark: what it may learn from, what must then stay quiet, and what it is tested on.

::

    healthy ──► later ──► test, labelled
    learned     healthy,  rows in order of time; where a recording restarts, `starts` names the row
    from        or none

Labels are for judging alone: a method is handed whole devices for brevity, and reads nothing but `healthy`, `feature_names` and
`period_rows` (`learnable` gives a copy that holds nothing else).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Device", "learnable"]

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Device:
    """One machine.

    Args:
        name: of the machine.
        healthy: rows (n, F) to learn from, in order of time.
        later: healthy rows (m, F) that follow on `healthy`; m may be 0.
        test: rows (k, F).
        labels: whether each test row is anomalous (k,).
        feature_names: F names.
        period_rows: rows of the cycle that this machine's clock says it has (a day), where there is one.
        starts: test rows at which a recording begins; the first is 0.

    Raises:
        ValueError: parts that do not fit each other; the message names the device and the part.
    """

    name: str
    healthy: Rows
    later: Rows
    test: Rows
    labels: NDArray[np.bool_]
    feature_names: tuple[str, ...]
    period_rows: int | None = None
    starts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        columns = len(self.feature_names)
        for part in ("healthy", "later", "test"):
            shape = getattr(self, part).shape
            if len(shape) != 2 or shape[1] != columns:
                raise ValueError(
                    f"{self.name}: {part} has shape {shape}; rows of {columns} features are expected"
                )
        if len(self.healthy) < 2:
            raise ValueError(
                f"{self.name}: healthy has {len(self.healthy)} rows; at least 2 are needed for a scale"
            )
        if self.labels.shape != (len(self.test),):
            raise ValueError(
                f"{self.name}: labels has shape {self.labels.shape}; one for each of the {len(self.test)} rows of test is expected"
            )
        is_rising = all(a < b for a, b in zip(self.starts, self.starts[1:], strict=False))
        if len(self.test) and (self.starts[0] != 0 or not is_rising or self.starts[-1] >= len(self.test)):
            raise ValueError(
                f"{self.name}: starts {self.starts} must rise from 0 within {len(self.test)} rows"
            )

    @property
    def has_both(self) -> bool:
        """Whether test holds anomalous rows and healthy ones: else nothing can be ranked."""
        return bool(self.labels.any() and not self.labels.all())


def learnable(device: Device) -> Device:
    """The same machine without later and test rows: what a method may see."""
    return replace(
        device,
        later=device.later[:0],
        test=device.test[:0],
        labels=device.labels[:0],
        starts=(0,),
    )
