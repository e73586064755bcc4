"""Keeps what a plug-in raises inside the source: a sensor driver that fails is a `SourceError`, never the agent's end.

A window that is not one is refused here, because nobody further on knows whose it is. A value that is not there (None, a
masked cell, one beyond float32) is missing, which is NaN from here on.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.port import Source, SourceWindow
from protocol.limits import MAX_INTEGER

__all__ = ["PluginGuard"]

log = logging.getLogger(__name__)

_LATEST_S: Final = 1e12
"""Of a machine's clock: thirty thousand years, so that no sum of times is ever infinite."""
_MOST_RAW_BYTES: Final = 1 << 40


class PluginGuard:
    """A `Source` around foreign code; `factory` names it in messages."""

    def __init__(self, source: Source, factory: str) -> None:
        self._source, self._factory = source, factory
        self.spec: Final = source.spec
        self._is_closed = False

    @property
    def next_due_s(self) -> float:
        """See `Source`; a plug-in that cannot tell is asked at once, and its failure told by `next_window`."""
        try:
            due_s = float(self._source.next_due_s)
        except BaseException:  # noqa: BLE001 - foreign code: whatever it raises must not cross this adapter
            return float("-inf")
        return due_s if due_s == due_s else float("-inf")  # noqa: PLR0124 - not a number is no time

    def next_window(self, now: float) -> SourceWindow | None:
        """See `Source`; raises SourceError for whatever the plug-in raises, and for anything that is no window."""
        try:
            window = self._source.next_window(now)
        except SourceError:
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code: sys.exit() in a driver ends no agent
            raise SourceError(
                f"source.factory {self._factory!r}: next_window failed: {type(error).__name__}: {error}"
            ) from None
        return None if window is None else self._checked(window)

    def _checked(self, window: SourceWindow) -> SourceWindow:
        """A window of our own with samples of our own: drivers use their buffers again."""
        try:
            samples, observed_at_s = window.samples, float(window.observed_at_s)
            if (
                isinstance(samples, np.ndarray)
                and samples.dtype.kind in "fiubO"
                and abs(observed_at_s) <= _LATEST_S
            ):
                raw_bytes = int(window.streaming_bytes)
                return SourceWindow(
                    samples=_single_precision(samples),
                    observed_at_s=observed_at_s,
                    index=min(max(int(window.index), 0), MAX_INTEGER),
                    raw_bytes=raw_bytes if 0 <= raw_bytes <= _MOST_RAW_BYTES else samples.nbytes,
                )
        except Exception:  # noqa: BLE001, S110 - said below: a duck that is no window, or cells that are no numbers
            pass
        raise SourceError(
            f"source.factory {self._factory!r}: next_window gave {type(window).__name__}; it must give a SourceWindow with an array of numbers and a finite observed_at_s, or None"
        )

    def close(self) -> None:
        """See `Source`; what fails here fails alone."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._source.close()
        except BaseException as error:  # noqa: BLE001 - foreign code: the agent's own last words come after this
            log.warning(
                "source_not_closed factory=%s error=%s: %s", self._factory, type(error).__name__, error
            )


def _single_precision(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    # What is too large becomes infinite, which is missing, and no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = samples.astype(np.float32)
    return np.ma.filled(numbers, np.float32(np.nan)) if isinstance(samples, np.ma.MaskedArray) else numbers
