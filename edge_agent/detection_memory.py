"""What detection remembers over a restart: this machine's scale, its drift state, its threshold, an anomaly that goes on.

Adapter to three small files of the state directory. A missing file is a new device; a damaged one is reported in one
line and treated as missing, because watching with a new reference is better than not watching. A disk that refuses a
write is reported in the same way: detection goes on from memory.

    standardiser.json   durable: losing it would mean commissioning again
    detection.json      durable: which release was committed, its personal threshold, the anomaly that goes on
    drift.state         reference and detector state, rewritten at each health message and at shutdown
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from edge_agent.episodes import RememberedEpisodes
from edge_agent.settings import StatePaths
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference
from models.errors import ModelError
from models.standardiser import Standardiser
from models.thresholds import PersonalThreshold
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["DetectionMemory", "Remembered"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class Remembered(Struct, frozen=True, kw_only=True):
    """The committed bundle's SHA-256, the threshold fitted for it, and the anomaly that was going on."""

    bundle_sha256: str = ""
    threshold: PersonalThreshold | None = None
    episodes: RememberedEpisodes = RememberedEpisodes()


class _DriftFile(Struct, frozen=True, kw_only=True):
    reference: DriftReference
    state: bytes


class DetectionMemory:
    """The three files of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._is_failing = False

    def load_standardiser(self, features: int) -> Standardiser | None:
        """This machine's scale, or None: commission. One for another number of features is not used."""
        found = self._load(self._paths.standardiser, Standardiser)
        if found is None:
            return None
        scale = (
            np.array([found.mean, found.std], np.float64)
            if len(found.mean) == len(found.std)
            else np.empty(0)
        )
        if scale.shape != (2, features) or not np.isfinite(scale).all() or not (scale[1] > 0).all():
            log.warning(
                "standardiser_refused path=%s: made for %d features, the source delivers %d; commissioning again",
                self._paths.standardiser,
                len(found.mean),
                features,
            )
            return None
        return found

    def save_standardiser(self, standardiser: Standardiser) -> None:
        """Keep it, durably."""
        self._save(self._paths.standardiser, msgspec.json.encode(standardiser))

    def load_remembered(self) -> Remembered:
        """What was remembered last, or nothing."""
        return self._load(self._paths.detection, Remembered) or Remembered()

    def save_remembered(self, remembered: Remembered) -> None:
        """Keep it, durably."""
        self._save(self._paths.detection, msgspec.json.encode(remembered))

    def load_drift(self, sensors: tuple[str, ...], settings: DriftSettings) -> DriftMonitor | None:
        """The drift monitor as it was saved, or None: it starts with the next reference."""
        found = self._load(self._paths.drift, _DriftFile)
        if found is None or len(found.reference.mean) != len(sensors):
            return None
        try:
            monitor = DriftMonitor(found.reference, settings, sensors=sensors)
            monitor.restore(found.state)
        except ModelError as error:
            log.warning(
                "drift_state_refused path=%s error=%s: starting a new reference", self._paths.drift, error
            )
            return None
        return monitor

    def save_drift(self, monitor: DriftMonitor) -> None:
        """Keep reference and state."""
        content = msgspec.json.encode(_DriftFile(reference=monitor.reference, state=monitor.state()))
        self._save(self._paths.drift, content)

    def _load(self, path: Path, kind: type[T]) -> T | None:
        try:
            content = read_bytes(path)
            return None if content is None else msgspec.json.decode(content, type=kind)
        except (StorageError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("state_unreadable path=%s error=%s: starting without it", path, error)
            return None

    def _save(self, path: Path, content: bytes) -> None:
        try:
            write_durably(path, content)
            self._is_failing = False
        except StorageError as error:
            if not self._is_failing:  # once until it works again: a full disk must not get a full log as well
                log.error("state_not_saved error=%s", error)  # noqa: TRY400 - one line; detection goes on from memory
            self._is_failing = True
