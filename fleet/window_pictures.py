"""The window of an anomaly outside a browser: lines for a terminal, a drawing (SVG) and its numbers (CSV) for a file.

Nothing of a window is believed (`fleet.dashboard.charts.windows.read_window`); names come from the release's manifest, escaped here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["window_csv", "window_lines", "window_svg"]

Window = NDArray[np.float32]

ACROSS: Final = 60
MOST_CHANNELS: Final = 64
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = "·"
_HEIGHT, _WIDTH, _LEFT = 48, 640, 220


def window_lines(window: Window, names: Sequence[str], blamed: Sequence[str]) -> Iterator[str]:
    """A line a channel, those that are blamed first and marked: its shape, lowest and highest; of one sample its value.

    Args:
        window: (samples, channels).
        names: of the channels; another number of them: unknown.
        blamed: names, worst first.
    """
    told = _names(window, names)
    order = _order(told, blamed)
    width = max(len(told[at]) for at in order[:MOST_CHANNELS])
    for at in order[:MOST_CHANNELS]:
        mark = "*" if told[at] in blamed else " "
        values = window[:, at].astype(np.float64)
        finite = values[np.isfinite(values)]
        if not len(finite):
            yield f"{mark} {told[at]:{width}}  missing"
        elif len(values) == 1:
            yield f"{mark} {told[at]:{width}}  {finite[0]:.5g}"
        else:
            yield f"{mark} {told[at]:{width}}  {_drawn(values)}  {finite.min():.4g} to {finite.max():.4g}"
    if len(order) > MOST_CHANNELS:
        yield f"  and {len(order) - MOST_CHANNELS} channels more"


def window_csv(
    window: Window, names: Sequence[str], blamed: Sequence[str], sample_rate_hz: float | None, title: str
) -> bytes:
    """The numbers: a row a sample, a column a channel, seconds before them where the rate is known."""
    del blamed, title
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    is_timed = sample_rate_hz is not None and len(window) > 1
    rows.writerow([*(["seconds"] if is_timed else []), *_names(window, names)])
    for number, sample in enumerate(window.tolist()):
        rows.writerow(
            [
                *([f"{number / (sample_rate_hz or 1.0):.9g}"] if is_timed else []),
                *(f"{value:.9g}" for value in sample),
            ]
        )
    return text.getvalue().encode()


def window_svg(
    window: Window, names: Sequence[str], blamed: Sequence[str], sample_rate_hz: float | None, title: str
) -> bytes:
    """The drawing: a strip a channel, those that are blamed first and in red; it needs nothing beside it."""
    told, strips = _names(window, names), list[str]()
    order = _order(told, blamed)[:MOST_CHANNELS]
    for row, at in enumerate(order):
        strips.append(_strip(window[:, at].astype(np.float64), told[at], row, is_blamed=told[at] in blamed))
    length = f", {len(window) / sample_rate_hz:.4g} s" if sample_rate_hz and len(window) > 1 else ""
    height = _HEIGHT * (len(order) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20">{escape(title)}: {len(window)} samples{length}</text>'
        + "".join(strips)
        + "</svg>\n"
    ).encode()


def _strip(values: NDArray[np.float64], name: str, row: int, *, is_blamed: bool) -> str:
    top, colour = _HEIGHT * (row + 1), "#b00020" if is_blamed else "#333333"
    finite = values[np.isfinite(values)]
    label = f'<text x="10" y="{top + 20}" fill="{colour}">{escape(name[:28])}</text>'
    if not len(finite):
        return label + f'<text x="{_LEFT}" y="{top + 20}">missing</text>'
    low, high = float(finite.min()), float(finite.max())
    extent = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    said = f'<text x="10" y="{top + 36}" font-size="10" fill="#777777">{extent}</text>'
    if len(values) == 1:
        return label + said
    x = _LEFT + np.arange(len(values)) * (_WIDTH / (len(values) - 1))
    y = top + 40 - 34 * (values - low) / ((high - low) or 1.0)
    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[one], y[one], strict=True))}"/>'
        for one in _known(np.isfinite(y))
    )
    return label + said + drawn


def _known(mask: NDArray[np.bool_]) -> Iterator[slice]:
    """The stretches that hold numbers."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))).tolist()
    return (slice(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True))


def _drawn(values: NDArray[np.float64]) -> str:
    """Blocks from the lowest to the highest; of each part the value that is furthest from the middle."""
    finite = values[np.isfinite(values)]
    low, middle, extent = finite.min(), np.median(finite), float(np.ptp(finite)) or 1.0
    drawn = ""
    for part in np.array_split(values, min(len(values), ACROSS)):
        known = part[np.isfinite(part)]
        if not len(known):
            drawn += _GAP
            continue
        value = known[np.argmax(np.abs(known - middle))]
        drawn += _BLOCKS[min(int((value - low) / extent * len(_BLOCKS)), len(_BLOCKS) - 1)]
    return drawn


def _names(window: Window, names: Sequence[str]) -> list[str]:
    count = window.shape[1]
    return list(names) if len(names) == count else [f"channel {number}" for number in range(1, count + 1)]


def _order(told: Sequence[str], blamed: Sequence[str]) -> list[int]:
    first = [told.index(name) for name in dict.fromkeys(blamed) if name in told]
    return first + [at for at in range(len(told)) if at not in first]
