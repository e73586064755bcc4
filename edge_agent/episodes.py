"""The anomalies of one device, each from its opening to its end, over restarts.

    scores ─► AlarmState ─┬─ opens ─► Episode (a random name) ─► remembered, then told: `AnomalyEvent`
                          ├─ goes on: windows, those over, peak, time
                          └─ calm, or another model ─► remembered, then told: `AnomalyClosed`

What is told is told exactly once. Each message is remembered before it goes to the outbox, and the memory of that is
taken back after it is there; a device killed between the two finds it in its memory, and tells it unless the outbox
holds it (`Telemetry.post` looks). Totals are remembered whenever state is saved, so that a kill costs at most the
windows since. Pure state: the pipeline writes what `remembered` gives.

Invariants: at most one episode goes on; an episode has one name from its opening to its end.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.thresholds import AlarmState, Closed, Opened
from protocol.messages.kinds import ClosedReason
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent

__all__ = ["Episode", "Episodes", "RememberedEpisodes"]


class Episode(Struct, frozen=True, kw_only=True):
    """An anomaly that goes on: where it began (machine clock, seconds), and what it has been so far."""

    id: str
    release: str
    window_index: int
    observed_at_s: float
    score: float
    threshold: float
    windows: int = 1
    windows_over: int = 1
    peak_score: float = 0.0
    lasted_s: float = 0.0


class RememberedEpisodes(Struct, frozen=True, kw_only=True):
    """What survives: the episode that goes on, whether its opening is in the outbox, and an end that may not be."""

    episode: Episode | None = None
    is_told: bool = True
    ended: AnomalyClosed | None = None


class Episodes:
    """Debounces scores into episodes.

    Args:
        settings: when an alarm opens and closes.
        remembered: as of the last start; an anomaly that went on goes on.
        new_id: a fresh name, unlike any other of this device.
    """

    def __init__(
        self, settings: DetectionSettings, remembered: RememberedEpisodes, new_id: Callable[[], str]
    ) -> None:
        self._alarm = AlarmState(
            opens_after_windows=settings.opens_after_windows,
            closes_after_windows=settings.closes_after_windows,
            closes_below_share=settings.closes_below_share,
        )
        self._new_id = new_id
        self._last_s: float | None = None
        self._lasted_s = 0.0
        self._is_told, self._ended = True, remembered.ended
        self._untold: list[AnomalyEvent | AnomalyClosed] = [remembered.ended] if remembered.ended else []
        self._episode = episode = remembered.episode
        if episode is not None:
            self._is_told, self._lasted_s = remembered.is_told, episode.lasted_s
            self._alarm.resume(
                windows=episode.windows, windows_over=episode.windows_over, peak_score=episode.peak_score
            )
            if not remembered.is_told:
                self._untold.append(_opening(episode))

    @property
    def is_open(self) -> bool:
        """Is an anomaly going on?"""
        return self._alarm.is_open

    @property
    def id(self) -> str:
        """The name of the episode that goes on; empty while none does."""
        return self._episode.id if self._episode is not None else ""

    @property
    def release(self) -> str:
        """The release that opened it; empty while none goes on."""
        return self._episode.release if self._episode is not None else ""

    @property
    def remembered(self) -> RememberedEpisodes:
        """What shall survive a kill now."""
        episode, alarm = self._episode, self._alarm
        if episode is not None and alarm.is_open:
            episode = replace(
                episode,
                windows=alarm.windows,
                windows_over=alarm.windows_over,
                peak_score=alarm.peak_score,
                lasted_s=self._lasted_s,
            )
        return RememberedEpisodes(episode=episode, is_told=self._is_told, ended=self._ended)

    @property
    def windows(self) -> int:
        """Windows of the anomaly that goes on, the latest included; 0 while none does."""
        return self._alarm.windows if self._alarm.is_open else 0

    def open_after(self, windows: int) -> None:
        """Open after so many windows over the threshold from now on."""
        self._alarm.open_after(windows)

    def update(
        self, score: float, threshold: float, window: SourceWindow, release: str
    ) -> Opened | Closed | None:
        """Judge one window, scored by `release`; a change shall be remembered before it is told."""
        change = self._alarm.update(score, threshold)
        if self._episode is None and change is None:  # nearly always
            return None
        observed_at_s = window.observed_at_s
        if self._episode is not None:
            if self._last_s is not None:  # none after a restart: a machine's clock may begin anew
                self._lasted_s += max(0.0, observed_at_s - self._last_s)
            self._last_s = observed_at_s
            if isinstance(change, Closed):
                self._close(change, ClosedReason.CALM, observed_at_s)
        elif isinstance(change, Opened):
            self._last_s, self._lasted_s, self._is_told = observed_at_s, 0.0, False
            self._episode = Episode(
                id=self._new_id(),
                release=release,
                window_index=window.index,
                observed_at_s=observed_at_s,
                score=score,
                threshold=threshold,
                peak_score=score,
            )
        return change

    def end(self) -> None:
        """Another model judges from now on, or none: what it calls an anomaly is a new one."""
        episode = self.remembered.episode
        if episode is not None:
            self._close(
                Closed(
                    windows=episode.windows, windows_over=episode.windows_over, peak_score=episode.peak_score
                ),
                ClosedReason.RELEASE,
                self._last_s if self._last_s is not None else episode.observed_at_s,
            )
        self._alarm.reset()

    def take_untold(self) -> list[AnomalyEvent | AnomalyClosed]:
        """Ends that are to be told, and what a kill left untold; each once in a process."""
        taken, self._untold = self._untold, []
        return taken

    def told(self) -> bool:
        """All that was taken is in the outbox; True where that is to be remembered."""
        is_news = not self._is_told or self._ended is not None
        self._is_told, self._ended = True, None
        return is_news

    def _close(self, totals: Closed, reason: ClosedReason, observed_at_s: float) -> None:
        episode = self._episode
        if episode is None:
            return
        self._ended = AnomalyClosed(
            episode=episode.id,
            release=episode.release,
            observed_at_s=observed_at_s,
            lasted_s=self._lasted_s,
            windows=totals.windows,
            windows_over=totals.windows_over,
            peak_score=totals.peak_score,
            reason=reason,
        )
        self._untold.append(self._ended)
        self._episode, self._last_s = None, None


def _opening(episode: Episode) -> AnomalyEvent:
    """The message of an opening whose raw window a kill has lost."""
    return AnomalyEvent(
        release=episode.release,
        score=episode.score,
        threshold=episode.threshold,
        window_index=episode.window_index,
        observed_at_s=episode.observed_at_s,
        episode=episode.id,
    )
