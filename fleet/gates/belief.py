"""Figures as they can be: what a device cannot have shown counts as not told, so that no other part has to ask.

Devices are authenticated, not honest, and a sum over a broken one must not decide for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Arms, Placebos, Shown

__all__ = ["believe"]

Floats = NDArray[np.float64]

_BOUNDS: Final = {
    "hours": (0.0, 1e6),
    "windows": (0.0, 1e12),
    "judged": (0.0, 1e12),
    "over": (0.0, 1e12),
    "log_latency": (-50.0, 50.0),
    "log_drift": (-50.0, 50.0),
    "memory_slope": (-1e3, 1e3),
    "sight": (0.0, 1.0),
    "restarts": (0.0, 1e9),
    "first_event_hours": (0.0, 1e6),
    "true_alarms": (0.0, 1e9),
    "false_alarms": (0.0, 1e9),
}
_SUMS: Final = {"hours", "windows", "judged", "over", "restarts", "true_alarms", "false_alarms"}
_WHOLE: Final = _SUMS - {"hours"}


def believe(arms: Arms) -> Arms:
    """The same evidence without what cannot be: sums become 0, all else NaN; no more judged than asked, no more over than judged."""
    placebos = arms.placebos
    if placebos is not None:
        placebos = Placebos(
            block=placebos.block, before=_possible(placebos.before), after=_possible(placebos.after)
        )
    return replace(arms, before=_possible(arms.before), after=_possible(arms.after), placebos=placebos)


def _possible(shown: Shown) -> Shown:
    figures: dict[str, Floats] = {}
    for name, (least, most) in _BOUNDS.items():
        told = np.asarray(getattr(shown, name), dtype=np.float64)
        can_be = (told >= least) & (told <= most)
        figures[name] = np.where(
            can_be, np.rint(told) if name in _WHOLE else told, 0.0 if name in _SUMS else np.nan
        )
    figures["judged"] = np.minimum(figures["judged"], figures["windows"])
    figures["over"] = np.minimum(figures["over"], figures["judged"])
    return Shown(**figures)
