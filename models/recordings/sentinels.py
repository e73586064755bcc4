"""Numbers that stand for "no value": -999, 9999, 65535.

Negative nines far below everything else are taken as missing and said. What could be a value is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.questions import Question
from models.recordings.raw_columns import RawColumn, Table, is_whole
from models.recordings.recording import shown

__all__ = ["Sentinels", "found_sentinels", "wraps"]

_NINES: Final = (
    -99.0,
    -99.9,
    -99.99,
    -999.0,
    -999.25,
    -999.9,
    -999.99,
    -9999.0,
    -9999.9,
    -9999.99,
    -99_999.0,
    -999_999.0,
)
_OTHERS: Final = (
    99.99, 999.0, 999.9, 999.99, 9999.0, 9999.9, 9999.99, 99_999.0, 999_999.0, 32_767.0, -32_768.0, 65_535.0, 3276.7, -3276.8, 6553.5, 327.67, -327.68, 655.35, 8888.0, 7777.0, -1.0, -127.0, 85.0,
    2_147_483_647.0, -2_147_483_648.0, 4_294_967_295.0, 1e20, 1e30, -1e30, 1e31, 1e35, 1e36, 9.969_21e36, -1e34, 1e37, 3.402_823_5e38, -3.402_823_5e38,
)  # fmt: skip
_OFTEN: Final = 3
_FAR: Final = 2.0
"""How many widths of all other values a number lies from them that is none."""


@dataclass(kw_only=True)
class Sentinels:
    """What was found in one column; its values are set missing where that is settled."""

    note: str = ""
    questions: list[Question] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)


def found_sentinels(column: RawColumn, answers: Mapping[str, str], table: Table) -> Sentinels:
    """Look at the smallest and the largest number of a column."""
    result, notes = Sentinels(), []
    values = column.values
    for pick in (np.nanmin, np.nanmax) * 2:
        if np.isnan(values).all():
            break
        extreme = np.float64(pick(values))
        listed = next((s for s in (*_NINES, *_OTHERS) if math.isclose(s, extreme, rel_tol=1e-6)), None)
        if listed is None and extreme == np.rint(extreme) and abs(extreme) > 1:
            listed = float(extreme) if _stands_apart(values, float(extreme)) else None
        if listed is None:
            continue
        is_it = np.isclose(values, extreme, rtol=1e-6, atol=0)
        rest = values[~is_it & ~np.isnan(values)]
        if not len(rest):
            continue
        width = float(rest.max() - rest.min()) or max(abs(float(rest.max())), 1e-9)
        distance = float(min(abs(extreme - rest.min()), abs(extreme - rest.max())))
        count, key = int(is_it.sum()), f"missing:{listed:.9g}"
        says = f"{listed:.9g} stands {count} times"
        is_far = distance > _FAR * width
        answer = answers.get(key, "")
        if answer:
            result.settled[key] = answer
        is_clear = listed in _NINES and is_far and rest.min() > listed / 2
        if answer == "yes" or (is_clear and answer != "no"):
            values[is_it] = np.nan
            notes.append(f"{says} for a missing value")
        elif not answer and (
            (
                is_far
                and (count > 1 or listed in _NINES)
                and (abs(listed) > 1 or (listed < 0 < rest.min() and count >= _OFTEN))
            )
            or (listed in _NINES and rest.min() >= 0)
        ):
            result.questions.append(
                Question(
                    key=key,
                    text=f"column {shown(column.name)}: {says}, far from all others ({rest.min():.6g} to {rest.max():.6g}): does it mean a missing value",
                    allowed=("yes", "no"),
                    path=table.path,
                    line=table.line_of(int(np.argmax(is_it))),
                )
            )
    result.note = "; ".join(notes)
    return result


def _stands_apart(values: NDArray[np.floating], extreme: float) -> bool:
    """Is a whole number written again and again, far from all others, of which there are many?"""
    is_it = values == extreme
    if np.count_nonzero(is_it) < _OFTEN:
        return False
    rest = values[~is_it & ~np.isnan(values)]
    if len(rest) < 2 * _OFTEN or len(np.unique(rest[:1000])) < 2 * _OFTEN:
        return False
    return bool(min(abs(extreme - rest.min()), abs(extreme - rest.max())) > _FAR * (rest.max() - rest.min()))


def wraps(values: NDArray[np.floating]) -> bool:
    """Whole numbers of 16 bits that are near 0 or near 65535 and nowhere between, each again and again."""
    told = values[~np.isnan(values)]
    is_low, is_high = (told >= 0) & (told < 0x1000), (told >= 0xF000) & (told <= 0xFFFF)
    few = min(np.count_nonzero(is_low), np.count_nonzero(is_high))
    high = np.unique(told[is_high])
    return bool(
        few >= 3 and (len(high) > 1 or high[0] < 0xFFFF) and (is_low | is_high).all() and is_whole(told)
    )
