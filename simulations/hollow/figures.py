"""The figures that hollow devices tell: made up, of a plausible size, different between devices and much alike within one.

No statistics may be learnt from them but those of load: there is no machine behind them.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass
from typing import Final

from protocol.messages.commands import SettingInForce
from protocol.messages.kinds import AgentState, ClosedReason
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, Health

__all__ = ["Temper", "anomaly_end", "anomaly_event"]

WINDOWS_PER_S: Final = 10
LATENCY_US: Final = 120.0
"""What a window takes the model, in the middle of all devices."""

DRAWN: Final = 30
"""Windows of an interval that are drawn: the rest is as they are."""


@dataclass(frozen=True, slots=True)
class Temper:
    """What is a device's own: the time that a window takes there, and how often one is over the threshold."""

    latency_us: float
    rate: float

    @classmethod
    def drawn(cls, draw: random.Random) -> Temper:
        """One of many."""
        return cls(LATENCY_US * draw.lognormvariate(0.0, 0.4), min(draw.lognormvariate(-4.6, 0.8), 0.5))

    def health(
        self,
        draw: random.Random,
        *,
        release: str | None,
        uptime_s: float,
        interval_s: float,
        outbox_events: int,
        obeyed: int,
        settings: tuple[SettingInForce, ...],
    ) -> Health:
        """A health message; without a release nothing is judged."""
        windows = max(int(interval_s * WINDOWS_PER_S), 1)
        drawn = min(windows, DRAWN)
        over = sum(draw.random() < self.rate for _ in range(drawn))
        latency_us = self.latency_us * draw.lognormvariate(0.0, 0.05)
        return Health(
            state=AgentState.WATCHING if release else AgentState.WAITING_FOR_RELEASE,
            release=release,
            uptime_s=uptime_s,
            windows=int(uptime_s * WINDOWS_PER_S),
            interval_s=interval_s,
            interval_windows=windows,
            interval_judged=windows if release else 0,
            anomaly_rate=over / drawn if release else 0.0,
            score_mean=draw.uniform(0.2, 0.4),
            score_max=draw.uniform(1.0, 1.5) if over else draw.uniform(0.6, 0.95),
            threshold=1.0 if release else None,
            drift_score=draw.uniform(0.1, 0.6),
            inference_p50_us=latency_us,
            inference_p99_us=2.5 * latency_us,
            memory_pss_bytes=48_000_000 + draw.randrange(2_000_000),
            outbox_events=outbox_events,
            obeyed=obeyed,
            settings=settings,
        )


def anomaly_event(
    draw: random.Random, *, episode: str, release: str, observed_at_s: float, window_values: int
) -> AnomalyEvent:
    """An anomaly that begins, with a raw window of so many values."""
    # 0x3f as the highest byte of each: a number between 0.5 and 2
    window = base64.b64encode((draw.randbytes(3) + b"\x3f") * window_values).decode()
    return AnomalyEvent(
        release=release,
        score=draw.uniform(1.0, 3.0),
        threshold=1.0,
        window_index=int(observed_at_s * WINDOWS_PER_S),
        observed_at_s=observed_at_s,
        window=window,
        window_shape=(window_values, 1) if window_values else (),
        episode=episode,
    )


def anomaly_end(draw: random.Random, *, episode: str, release: str, observed_at_s: float) -> AnomalyClosed:
    """Its end."""
    return AnomalyClosed(
        episode=episode,
        release=release,
        observed_at_s=observed_at_s,
        lasted_s=draw.uniform(1.0, 60.0),
        windows=draw.randrange(10, 600),
        windows_over=draw.randrange(1, 10),
        peak_score=draw.uniform(1.5, 4.0),
        reason=ClosedReason.CALM,
    )
