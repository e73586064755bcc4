"""How an agent would best watch recordings like these: what a window is, how long commissioning takes, which cycle there is.

A suggestion follows from sample rate and length alone, never from labels or from what a detector would make of it. `fedge study` plays
recordings with it, and a family's specification can be written from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.features import passthrough_spec, vibration_spec
from protocol.manifest import FeatureSpec

__all__ = ["FEWEST_LEARNING", "Suggestion", "suggest"]

VIBRATION_FROM_HZ: Final = 2000.0
"""From this rate on rows are samples of a waveform: no process is measured so often."""
WINDOW_S: Final = 0.16
"""Of a waveform: 2,048 samples at 12.8 kHz, several turns of a shaft."""
SHORTEST_WAVEFORM, LONGEST_WAVEFORM = 256, 16_384

LEARNING_SHARE: Final = 0.4
"""Of the windows. Less is learnt from than is judged: a rate of rare alarms needs the longer part."""
COMMISSIONING: Final = 120
FEWEST_LEARNING: Final = 60
"""Windows: commissioning never settles on fewer than 45."""
FEWEST_JUDGED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """How to watch.

    Attributes:
        kind: ``passthrough``, a row a window; or ``vibration``, `rows_per_window` samples a window.
        rows_per_window: see above.
        commissioning_windows: fewest windows of an agent's commissioning.
        longest_commissioning: most.
        period_s: a cycle that commissioning has to see; None: a day and a week are looked for by the agent itself.
        why: a sentence for each of these.
    """

    kind: str
    rows_per_window: int
    commissioning_windows: int
    longest_commissioning: int
    period_s: float | None
    why: tuple[str, ...]

    @property
    def fewest_windows(self) -> int:
        """Of a machine: with fewer nothing can be learnt and judged."""
        return round(FEWEST_LEARNING / LEARNING_SHARE)

    def is_enough(self, windows: int) -> bool:
        """Can a machine with so many windows be studied?"""
        return windows >= self.fewest_windows

    def learning_of(self, windows: int) -> int:
        """How many of a machine's windows are learnt from, the first ones."""
        return round(LEARNING_SHARE * windows)

    def features(self, sensors: tuple[str, ...], sample_rate_hz: float | None) -> FeatureSpec:
        """What a source of these sensors delivers; raises FeatureError for sensors or rates that cannot be."""
        if self.kind == "vibration" and sample_rate_hz is not None:
            return vibration_spec(sample_rate_hz, self.rows_per_window, len(sensors))
        return passthrough_spec(sensors)


def suggest(rows: tuple[int, ...], sample_rate_hz: float | None) -> Suggestion:
    """How to watch machines with so many rows each.

    Args:
        rows: of each machine, at least one.
        sample_rate_hz: rows in a second; None: unknown.
    """
    is_waveform = sample_rate_hz is not None and sample_rate_hz >= VIBRATION_FROM_HZ
    step, why = 1, []
    if sample_rate_hz is not None and is_waveform:
        wanted = min(max(WINDOW_S * sample_rate_hz, SHORTEST_WAVEFORM), LONGEST_WAVEFORM)
        step = 1 << round(wanted).bit_length() - 1
        why.append(
            f"window: {step:,} samples ({1000 * step / sample_rate_hz:.3g} ms): rows at {sample_rate_hz:,.6g} Hz are a waveform"
        )
    else:
        why.append("window: one row, as the recording gives them")
    # The middle machine decides: one recording that is short must not hurry the others.
    windows = sorted(count // step for count in rows)[len(rows) // 2]
    learnable = max(round(LEARNING_SHARE * windows), 20)
    fewest, longest = min(COMMISSIONING, learnable), min(4 * COMMISSIONING, learnable)
    why.append(
        f"commissioning: {fewest:,} windows, up to {longest:,} where the machine has not settled"
        + (f" (all that {LEARNING_SHARE:.0%} of a recording have)" if longest < 4 * COMMISSIONING else "")
    )
    why.append("period: none named; a day and a week are looked for where a recording holds them")
    return Suggestion(
        kind="vibration" if is_waveform else "passthrough",
        rows_per_window=step,
        commissioning_windows=fewest,
        longest_commissioning=max(fewest, longest),
        period_s=None,
        why=tuple(why),
    )
