"""What detection remembers over a restart: this machine's scale, its drift state, its threshold, an anomaly that goes on.

Every file says by a fingerprint which columns it is about, and is no file at all for others.

Adapter to small files of the state directory. A missing file is a new device; a damaged one is reported in one
line and treated as missing, because watching with a new reference is better than not watching. A disk that refuses a
write is reported in the same way: detection goes on from memory.

    standardiser.json    durable: losing it would mean commissioning again; it also spells its columns out
    commissioning.json   durable: how commissioning goes on after a restart; its rows lie in a buffer of their own
    detection.json       durable: the committed release, its threshold, the anomaly that goes on, what a person accepted,
                         and what came of the promise of the detector
    detector.json        durable: that detector, where the release is judged by the mixture; detection.json has its SHA-256
    drift.state          reference and detector state, rewritten at each health message and at shutdown
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from edge_agent.detector_file import decode_detector, encode_detector
from edge_agent.episodes import RememberedEpisodes
from edge_agent.judges import MixtureJudge
from edge_agent.kept_promise import Realised
from edge_agent.outdated_state import preserve
from edge_agent.settings import DetectionSettings, StatePaths
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference
from models.errors import InputError, ModelError
from models.standardiser import Standardiser
from models.thresholds import PersonalThreshold
from protocol.manifest import FeatureSpec
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = [
    "DetectionMemory",
    "Progress",
    "RecommissionRequest",
    "Remembered",
    "UnknownRegime",
    "read_scale",
]

log = logging.getLogger(__name__)
T = TypeVar("T")


class UnknownRegime(Struct, frozen=True, kw_only=True):
    """A `level` (F,) of rows as they are judged, since when the machine has come to it, and when it did last, Unix seconds."""

    level: tuple[float, ...]
    since_s: float
    last_s: float = 0.0


class Remembered(Struct, frozen=True, kw_only=True):
    """What is kept of the decisions about windows.

    The committed bundle's SHA-256, the threshold fitted for it out of `scored` windows, and the anomaly that was going
    on. `drift_since_s` is when the drift that goes on was found, `is_drift_accepted` whether a person called it normal, also
    once it has been learnt, until another release is committed
    (a release that was committed meanwhile still owes a reference: `is_reference_owed`; a word that came before the machine was at
    rest waits for that: `is_word_waiting`), `accepting_until_s` up to when a
    person called windows normal (Unix seconds) while those rows are moved, else 0: an old word says nothing of what comes
    after it, whatever the wall's clock does. `detector_sha256` is of the file of the
    committed release's fitted detector, `realised` what came of its promise, `time_scales` what it remembers of the last
    windows; empty where the release's network judges. `cycle_since_s` is since when (Unix seconds) rows may speak of a cycle of the
    machine's clock, and `profile_lost` why not of those before; `periods_tried` how many whole periods had been seen when a
    profile was looked for last. `unknown_regimes` are levels that people were told of and nobody has called normal;
    `is_vouched`: of some rows that may be learnt a person has said that they are normal.
    """

    bundle_sha256: str = ""
    threshold: PersonalThreshold | None = None
    scored: int = 0
    episodes: RememberedEpisodes = RememberedEpisodes()
    drift_since_s: float = 0.0
    is_drift_accepted: bool = False
    is_reference_owed: bool = False
    is_word_waiting: bool = False
    accepting_until_s: float = 0.0
    detector_sha256: str = ""
    realised: Realised = field(default_factory=Realised)
    time_scales: tuple[float, ...] = ()
    cycle_since_s: float = 0.0
    profile_lost: str = ""
    periods_tried: int = 0
    unknown_regimes: tuple[UnknownRegime, ...] = ()
    is_vouched: bool = False
    fingerprint: str = ""


class Progress(Struct, frozen=True, kw_only=True):
    """How commissioning goes on after a restart.

    Every `stride`-th window is gathered. `is_again`: there is a scale, and a person asked for another one; it is pooled
    with the one before unless `is_afresh`. `why` is told to people while it lasts. `fitted` is the scale that came of
    it, until everything that depends on the one before is renewed.
    """

    stride: int = 1
    is_again: bool = False
    is_afresh: bool = False
    why: str = ""
    fitted: Standardiser | None = None
    fingerprint: str = ""


class RecommissionRequest(Struct, frozen=True, kw_only=True):
    """A person asks for another commissioning; `is_afresh` forgets the scale so far instead of pooling."""

    is_afresh: bool = False


class _ScaleFile(Standardiser, frozen=True, kw_only=True):
    fingerprint: str = ""
    columns: FeatureSpec | None = None


class _DriftFile(Struct, frozen=True, kw_only=True):
    reference: DriftReference
    state: bytes
    fingerprint: str = ""
    context: str = ""


def read_scale(path: Path, columns: FeatureSpec) -> Standardiser | None:
    """The scale as another process of this device reads it, which changes nothing; None where there is none of these columns."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_ScaleFile)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return None
    is_sound = found.fingerprint == columns.fingerprint and len(found.mean) == len(found.std) == len(
        columns.names
    )
    return found if is_sound else None


class DetectionMemory:
    """The files of one state directory, for one set of columns."""

    def __init__(self, paths: StatePaths, columns: FeatureSpec) -> None:
        self._paths = paths
        self._columns = columns
        self._fingerprint = columns.fingerprint
        self._is_failing = False
        self._request_ns = 0
        self._remembered: Remembered | None = None

    @property
    def remembered(self) -> Remembered:
        """What is remembered at present."""
        if self._remembered is None:
            self._remembered = self.load_remembered()
        return self._remembered

    def remember(self, **changes: object) -> None:
        """Change fields of what is remembered, durably; what is no change costs nothing."""
        renewed = replace(self.remembered, **changes)
        if renewed != self._remembered:
            self._remembered = renewed
            self.save_remembered(renewed)

    def load_standardiser(self) -> Standardiser | None:
        """This machine's scale, or None: commission. One for other columns is not used."""
        found = self._load(self._paths.standardiser, _ScaleFile)
        if found is None or not self._fits(self._paths.standardiser, found.fingerprint):
            return None
        sensors = len(self._columns.names)
        scale = (
            np.array([found.mean, found.std], np.float64)
            if len(found.mean) == len(found.std)
            else np.empty(0)
        )
        is_sound = scale.shape == (2, sensors) and np.isfinite(scale).all() and (scale[1] > 0).all()
        if not is_sound or not all(0 <= sensor < sensors for sensor in (*found.unscaled, *found.unseen)):
            log.warning(
                "standardiser_refused path=%s: made for %d features, the source delivers %d; commissioning again",
                self._paths.standardiser,
                len(found.mean),
                sensors,
            )
            return None
        standardiser = Standardiser(**{name: getattr(found, name) for name in Standardiser.__struct_fields__})
        if not found.fingerprint:
            self.save_standardiser(standardiser)
        return standardiser

    def save_standardiser(self, standardiser: Standardiser) -> None:
        """Keep it, durably."""
        fields = msgspec.structs.asdict(standardiser)
        file = _ScaleFile(**fields, fingerprint=self._fingerprint, columns=self._columns)
        self._save(self._paths.standardiser, msgspec.json.encode(file))

    def load_progress(self) -> Progress:
        """How far commissioning was, or where it begins."""
        found = self._load(self._paths.commissioning_progress, Progress)
        if found is None or not self._fits(self._paths.commissioning_progress, found.fingerprint):
            return Progress()
        return replace(found, fingerprint="")

    def save_progress(self, progress: Progress | None) -> None:
        """Keep it, durably; None: commissioning is over."""
        path = self._paths.commissioning_progress
        if progress is not None:
            self._save(path, msgspec.json.encode(replace(progress, fingerprint=self._fingerprint)))
        else:
            self._remove(path)

    def find_request(self) -> RecommissionRequest | None:
        """What a person asks for by ``fedge-agent recommission``; once in a process, and until `drop_request` on disk."""
        path = self._paths.recommission
        try:
            written_ns = path.stat().st_mtime_ns
        except OSError:
            return None
        if written_ns == self._request_ns:  # it is being met, and the disk would not let it go
            return None
        self._request_ns = written_ns
        found = self._load(path, RecommissionRequest)
        if found is None:
            self.drop_request()
        return found

    def drop_request(self) -> None:
        """It is being met: commissioning itself is remembered from now on."""
        self._remove(self._paths.recommission)

    def preserve_scale(self, why: str) -> None:
        """Keep scale and drift state apart: others are about to take their places."""
        try:
            preserve(self._paths, [self._paths.standardiser, self._paths.drift], why)
        except StorageError as error:
            log.warning("scale_not_preserved error=%s", error)

    def load_remembered(self) -> Remembered:
        """What was remembered last, or nothing."""
        found = self._load(self._paths.detection, Remembered)
        if found is None or not self._fits(self._paths.detection, found.fingerprint):
            return Remembered()
        return replace(found, fingerprint="")

    def save_remembered(self, remembered: Remembered) -> None:
        """Keep it, durably."""
        content = msgspec.json.encode(replace(remembered, fingerprint=self._fingerprint))
        self._save(self._paths.detection, content)

    def load_detector(self, bundle_sha256: str, settings: DetectionSettings) -> MixtureJudge | None:
        """The fitted detector of the committed release as it was, or None: fit it anew."""
        remembered = self.remembered
        try:
            content = read_bytes(self._paths.detector)
            if content is None or hashlib.sha256(content).hexdigest() != remembered.detector_sha256:
                return None
            judge = decode_detector(
                content, self._fingerprint, bundle_sha256, settings.budget, settings.alarm_rules
            )
        except (StorageError, InputError) as error:
            log.warning("detector_refused path=%s error=%s: fitting it anew", self._paths.detector, error)
            return None
        judge.scales.resume(remembered.time_scales)
        return judge

    def save_detector(self, judge: MixtureJudge, bundle_sha256: str, settings: DetectionSettings) -> str:
        """Keep a fitted detector, durably; returns the SHA-256 to remember it by."""
        content = encode_detector(
            judge, self._fingerprint, bundle_sha256, settings.budget, settings.alarm_rules
        )
        self._save(self._paths.detector, content)
        return hashlib.sha256(content).hexdigest()

    def load_drift(
        self, sensors: tuple[str, ...], settings: DriftSettings
    ) -> tuple[DriftMonitor | None, str]:
        """The drift monitor as it was saved, with the fingerprint of its context; None: it starts with the next reference."""
        found = self._load(self._paths.drift, _DriftFile)
        if found is None or len(found.reference.mean) != len(sensors):
            return None, ""
        if not self._fits(self._paths.drift, found.fingerprint):
            return None, ""
        try:
            monitor = DriftMonitor(found.reference, settings, sensors=sensors)
            monitor.restore(found.state)
        except ModelError as error:
            log.warning(
                "drift_state_refused path=%s error=%s: starting a new reference", self._paths.drift, error
            )
            return None, ""
        return monitor, found.context

    def save_drift(self, monitor: DriftMonitor, context: str = "") -> None:
        """Keep reference and state, and in which context (`fingerprint_of_context`) rows are seen by it."""
        file = _DriftFile(
            reference=monitor.reference,
            state=monitor.state(),
            fingerprint=self._fingerprint,
            context=context,
        )
        self._save(self._paths.drift, msgspec.json.encode(file))

    def _fits(self, path: Path, fingerprint: str) -> bool:
        """Is what `path` holds about these columns? One of an older build counts as such: its width decides."""
        if fingerprint in {"", self._fingerprint}:
            return True
        log.warning("state_foreign path=%s: it is about other columns; starting without it", path)
        return False

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

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("state_not_removed path=%s error=%s", path, error.strerror or error)
