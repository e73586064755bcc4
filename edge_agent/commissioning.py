"""Learning one machine's own scale from its first windows, and giving every later window in it.

It gathers raw features until their estimates have settled (`models.settling`), fits the scale once and keeps it:
refitting by itself would hide the very drift that it should show, and make a fault normal. What a person asks for is
another matter: `restart` gathers beside watching, and pools what it finds with the scale so far, so that a machine whose
first windows saw one regime gets the others too. It knows no model and no alarm; `edge_agent.pipeline` does.

::

    features ─► gather ─► enough and settled, or too long ─► fit ─► standardiser.json ─► the gathered rows, standardised
                  └─► commissioning/ : every few windows on disk, so that a power cut costs seconds of it

Invariants: once `is_done`, `standardise` means the same until a commissioning that was asked for ends, but for sensors
that were constant and move for the first time; what is gathered is bounded in memory and on disk, however long it takes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.clipping import ClipWatch
from edge_agent.detection_memory import DetectionMemory, Progress
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import DetectionSettings
from models.detection.scale import ScalePrior, with_fleet_scale
from models.sensors import SensorView
from models.settling import are_settled, unsettled
from models.standardiser import CLIP, Standardiser, moves, pooled, scaled_by_first_step
from runtime.errors import StorageError

__all__ = ["GATHERED_BYTES", "Commissioning", "StandardisedRow"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
StandardisedRow = tuple[Float, float, float]
"""A row, and when it was observed: the machine's clock and the wall's, seconds."""

GATHERED_BYTES: Final = 8 * 1024 * 1024
"""Of raw rows at most; where a long period needs more, every second window is let go, then every second again."""

_SYNC_S: Final = 5.0
_SYNC_WINDOWS: Final = 10
"""A power cut costs as much of commissioning; an fsync more often would wear out a card."""

_SHARE_AT_FEWEST: Final = 0.9
"""How far commissioning is said to be when it has the fewest windows and has not settled."""

_NAMED: Final = 3

# Arrays of rank 0: NumPy would wrap a scalar into one again for every window.
_LOWEST: Final = np.array(-CLIP)
_HIGHEST: Final = np.array(CLIP)


class Commissioning:
    """This machine's scale: gathered, fitted, kept.

    Attributes:
        standardiser: the scale in force; None until it is known.
        clipping: how much of what is seen lies at the end of that scale.
    """

    def __init__(
        self,
        sensors: SensorView,
        settings: DetectionSettings,
        memory: DetectionMemory,
        gathered: SampleBuffer,
        clock: Callable[[], float],
    ) -> None:
        """Continue from what is remembered.

        Args:
            sensors: what the values of a row are.
            settings: how many windows make a scale.
            memory: what survives a restart.
            gathered: where raw rows lie while they are gathered.
            clock: monotonic seconds, for how often the disk is asked.
        """
        self._sensors, self._settings, self._memory = sensors, settings, memory
        self._store, self._clock = gathered, clock
        self._progress = memory.load_progress()
        self._rows: list[StandardisedRow] = []
        self._passed = self._since_sync = 0
        self._span_s = 0.0
        self._synced_s = clock()
        self._check_at = settings.commissioning_windows
        self._use(memory.load_standardiser())
        if self.is_gathering or self.is_complete:
            self._resume()
        else:
            self._store.clear()
        if self._progress.fitted is not None:
            self._put_in_force(self._progress.fitted)

    @property
    def is_done(self) -> bool:
        """Is this machine's scale known?"""
        return self.standardiser is not None

    @property
    def is_provisional(self) -> bool:
        """Did commissioning end at its cap, unsettled?"""
        return self.standardiser is not None and self.standardiser.is_provisional

    @property
    def is_gathering(self) -> bool:
        """Are windows gathered for a scale, the first or another one?"""
        return self.standardiser is None or (self._progress.is_again and not self.is_complete)

    @property
    def share(self) -> float:
        """How far it is, in [0, 1]; 1 when nothing is gathered."""
        if not self.is_gathering:
            return 1.0
        fewest, longest = self._settings.commissioning_windows, self._settings.longest_commissioning
        if self.windows < fewest:
            return _SHARE_AT_FEWEST * self.windows / fewest
        beyond = (self.windows - fewest) / max(1, longest - fewest)
        return min(0.99, _SHARE_AT_FEWEST + (1 - _SHARE_AT_FEWEST) * beyond)

    @property
    def windows(self) -> int:
        """Windows gathered so far."""
        return len(self._rows) * self._progress.stride

    def problems(self) -> list[str]:
        """What a person should know of the scale, the gravest first."""
        found = [self._progress.why] if self._progress.why and self.is_gathering else []
        if self.standardiser is not None:
            if not self._progress.is_again and (clipped := self.clipping.problem(self._sensors.names)):
                found.append(clipped)
            if self.standardiser.unseen:
                names = _named([self._sensors.names[i] for i in self.standardiser.unseen])
                found.append(
                    f"{names} delivered nothing in commissioning: mend, then fedge-agent recommission --config agent.toml"
                )
            if self.standardiser.unscaled:
                names = _named([self._sensors.names[i] for i in self.standardiser.unscaled])
                found.append(f"constant since commissioning, cannot be judged until they move: {names}")
        return found

    def begin(self, why: str) -> None:
        """Say why there is no scale, for as long as there is none."""
        if not self.is_done:
            self._progress = replace(self._progress, why=why)
            self._memory.save_progress(self._progress)

    def restart(self, *, is_afresh: bool) -> None:
        """Gather windows for another scale while the one so far goes on; `is_afresh` forgets that one at the end."""
        self._forget_gathered()
        self._progress = Progress(
            is_again=self.is_done, is_afresh=is_afresh, why="commissioning again, as asked"
        )
        self._memory.save_progress(self._progress)
        log.warning("commissioning_restarted afresh=%s", is_afresh)

    def gather(self, features: Float, machine_s: float, wall_s: float) -> list[StandardisedRow]:
        """Take one window's raw features (F,) with when it was observed.

        Returns:
            Every gathered window in the scale that this one completed, oldest first; nothing before.
        """
        self._passed += 1
        if self._passed % self._progress.stride:
            return []
        self._keep((features, machine_s, wall_s))
        if self.windows < self._check_at or self._span_s < (self._settings.period_s or 0.0):
            return []
        return self._finish()

    def standardise(self, features: Float) -> Float:
        """Raw features (F,) in units of this machine's healthy variation; equals `Standardiser.apply`."""
        if self._has_unscaled:
            self._look_for_first_steps(features)
        np.subtract(features, self._centre, out=self._centred)
        np.divide(self._centred, self._scale, out=self._centred)
        np.maximum(self._centred, _LOWEST, out=self._centred)
        np.minimum(self._centred, _HIGHEST, out=self._centred)
        return self._centred.astype(np.float32)

    def _finish(self) -> list[StandardisedRow]:
        raw = np.stack([row for row, _, _ in self._rows])
        fitted = replace(self._sensors.fit_scale(raw), fitted_on=self.windows)
        rows = self._standardised(raw, fitted)
        restless = unsettled(self._sensors.watch(rows))
        if not are_settled(restless):
            if self.windows < self._settings.longest_commissioning:
                later = self.windows + max(10, self.windows // 10)
                self._check_at = min(later, self._settings.longest_commissioning)
                return []
            names = _named([self._sensors.watched[i] for i in np.flatnonzero(restless)])
            log.warning("commissioning_provisional windows=%d unsettled=%s", self.windows, names)
            fitted = replace(fitted, is_provisional=True)
        if self.standardiser is not None and not self._progress.is_afresh:
            fitted = pooled(self.standardiser, fitted)
            rows = self._standardised(raw, fitted)
        log.info("commissioned windows=%d provisional=%s", self.windows, fitted.is_provisional)
        # Before anything else changes: a power cut from here on leaves no scale beside rows and threshold of another.
        with contextlib.suppress(StorageError):  # then as much of the rows as a cut leaves
            self._store.sync()
        self._progress = replace(self._progress, fitted=fitted)
        self._memory.save_progress(self._progress)
        self._put_in_force(fitted)
        return self.fitted_rows()

    @property
    def is_complete(self) -> bool:
        """Is there a new scale that what depends on it has not been renewed for? `taken_up` ends that."""
        return self._progress.fitted is not None

    def fitted_rows(self) -> list[StandardisedRow]:
        """Every gathered window in the scale that came of them, oldest first; while it `is_complete`."""
        fitted = self._progress.fitted
        if fitted is None or not self._rows:
            return []
        rows = self._standardised(np.stack([row for row, _, _ in self._rows]), fitted)
        return [(row, *when) for row, (_, *when) in zip(rows, self._rows, strict=True)]

    @property
    def units(self) -> NDArray[np.float64]:
        """What one standardised value (F,) is in the source's own units; infinite where a sensor has no scale."""
        return self._scale

    def take_fleet_scale(self, fleet: ScalePrior) -> None:
        """Sensors that were constant here get the fleet's deviation for a unit, where the fleet knows one: for good."""
        before = self.standardiser
        if before is None or not before.unscaled:
            return
        after = with_fleet_scale(before, fleet)
        if after != before:
            taken = [self._sensors.names[i] for i in before.unscaled if i not in after.unscaled]
            log.info("fleet_scale_taken sensors=%s", _named(taken))
            self._use(after)
            self._memory.save_standardiser(after)

    def taken_up(self) -> None:
        """All that depends on the scale is renewed: commissioning is over."""
        self._memory.save_progress(None)
        self._progress = Progress()
        self._forget_gathered()

    def _put_in_force(self, fitted: Standardiser) -> None:
        if self.standardiser == fitted:
            return
        if self.is_done:
            self._memory.preserve_scale("the scale before a commissioning that was asked for")
        self._use(fitted)
        self._memory.save_standardiser(fitted)

    def _forget_gathered(self) -> None:
        self._rows.clear()
        self._store.clear()
        self._span_s, self._passed = 0.0, 0
        self._check_at = self._settings.commissioning_windows

    def _standardised(self, raw: Float, standardiser: Standardiser) -> Float:
        rows = self._sensors.standardise(raw, standardiser)
        # The sensor's own mean: nothing is taught of a glitch, nor of what was missing.
        rows[self._sensors.find_glitches(raw) | ~np.isfinite(raw)] = 0.0
        return rows

    def _use(self, standardiser: Standardiser | None) -> None:
        self.standardiser = standardiser
        self._centre, self._scale = self._sensors.scale_of(standardiser)
        self._centred = np.empty_like(self._centre)
        self._has_unscaled = standardiser is not None and bool(standardiser.unscaled)
        self._unscaled = np.flatnonzero(np.isinf(self._scale))
        # In float32, as sources deliver: a mean of equal values may be off by a hair in float64.
        self._constants = self._centre[self._unscaled].astype(np.float32)
        self._first_moves = np.full(len(self._sensors.names), np.nan)
        self.clipping = ClipWatch(len(self._centre), sensors=len(self._sensors.names))

    def _look_for_first_steps(self, features: Float) -> None:
        if np.array_equal(features[self._unscaled], self._constants):
            return
        before = self.standardiser
        assert before is not None  # noqa: S101 - for the type checker: without a scale nothing is unscaled
        step = self._sensors.furthest_from(np.array(before.mean), features)
        after = scaled_by_first_step(before, self._first_moves, step)
        if after is not before:
            moved = [self._sensors.names[i] for i in before.unscaled if i not in after.unscaled]
            log.warning("constant_sensor_moved sensors=%s: the step is their unit from now on", _named(moved))
            self._use(after)
            self._memory.save_standardiser(after)
        has_moved = moves(before, step)
        self._first_moves[has_moved] = step[has_moved]

    def _keep(self, row: StandardisedRow) -> None:
        if self._rows:  # a clock that begins anew after a restart loses nothing
            self._span_s += max(0.0, row[1] - self._rows[-1][1])
        self._rows.append(row)
        if len(self._rows) * row[0].nbytes > GATHERED_BYTES:
            self._thin()
            return
        self._since_sync += 1
        is_due = self._since_sync >= _SYNC_WINDOWS or self._clock() - self._synced_s >= _SYNC_S
        try:
            self._store.append(*row)
            if is_due:
                self._synced_s, self._since_sync = self._clock(), 0
                self._store.sync()
        except StorageError:
            return  # commissioning goes on from memory; the loop's own flush tells people

    def _thin(self) -> None:
        """Let every second window go: what is left spans as long, and shows the same spread."""
        self._rows = self._rows[::2]
        self._progress = replace(self._progress, stride=2 * self._progress.stride)
        self._memory.save_progress(self._progress)
        self._rewrite()

    def _resume(self) -> None:
        found = self._store.newest()
        self._rows = list(zip(found.rows, found.machine_s.tolist(), found.wall_s.tolist(), strict=True))
        self._span_s = float(np.maximum(np.diff(found.machine_s), 0.0).sum())
        if self._rows:
            log.info("commissioning_resumed windows=%d", self.windows)
            self._rewrite()  # in one segment: one for each of many restarts would push the first ones out

    def _rewrite(self) -> None:
        self._store.clear()
        try:
            for row in self._rows:
                self._store.append(*row)
            self._store.sync()
        except StorageError as error:
            log.warning("commissioning_not_kept error=%s", error)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
