"""Keeps what a plug-in raises inside the source: a sensor driver that fails is a `SourceError`, never the agent's end.

A window that is not one is refused here, because nobody further on knows whose it is. A value that is not there (None, a
masked cell, one beyond float32) is missing, which is NaN from here on.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.port import Source, SourceWindow

__all__ = ["PluginGuard"]

log = logging.getLogger(__name__)


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
            return float(self._source.next_due_s)
        except Exception:  # noqa: BLE001 - foreign code: whatever it raises must not cross this adapter
            return float("-inf")

    def next_window(self, now: float) -> SourceWindow | None:
        """See `Source`; raises SourceError for whatever the plug-in raises, and for anything that is no window."""
        try:
            window = self._source.next_window(now)
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(
                f"source.factory {self._factory!r}: next_window failed: {type(error).__name__}: {error}"
            ) from error
        return None if window is None else self._checked(window)

    def _checked(self, window: SourceWindow) -> SourceWindow:
        try:
            samples = window.samples
            if (
                type(samples) is np.ndarray
                and samples.dtype == np.float32
                and math.isfinite(window.observed_at_s)
            ):
                return window
            if (
                isinstance(samples, np.ndarray)
                and samples.dtype.kind in "fiubO"
                and math.isfinite(window.observed_at_s)
            ):
                return dataclasses.replace(
                    window, samples=_single_precision(samples), raw_bytes=window.streaming_bytes
                )
        except (AttributeError, TypeError, ValueError):
            pass  # said below: a duck that is no window, or cells that are no numbers
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
        except Exception as error:  # noqa: BLE001 - foreign code: the agent's own last words come after this
            log.warning(
                "source_not_closed factory=%s error=%s: %s", self._factory, type(error).__name__, error
            )


def _single_precision(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    # What is too large becomes infinite, which is missing, and no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = samples.astype(np.float32)
    return np.ma.filled(numbers, np.float32(np.nan)) if isinstance(samples, np.ma.MaskedArray) else numbers
