"""A device, its fleet and its releases for the installer's tests: real files, real bundles, real models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.errors import FleetUnreachableError, ReleaseRefusedError
from edge_agent.fleet_client import BundleStream
from edge_agent.installation.acceptance import Requirements
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.download import DownloadLimits
from edge_agent.installation.effects import InstallLimits, InstallTools
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.installer import Installer
from edge_agent.installation.journal import Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.probe_result import ProbeResult
from edge_agent.installation.trial import TrialLimits, WindowRecord
from models.architecture import Architecture, initial_parameters
from models.bundles import GoldenVectors, bundle_files, make_golden_vectors
from models.drift.reference import DriftReference
from models.int8_model import Int8Model
from protocol.bundle import entries_for, pack_bundle
from protocol.manifest import FeatureSpec, Manifest, Provenance, ThresholdSpec
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import ShadowOutcome
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport
from protocol.training import TrainingSettings

MODELS = Path(__file__).parent / "installation_models"
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(4, 3, 4))
FEATURES = FeatureSpec(kind="passthrough", names=("a", "b", "c", "d"), channels=4)
REQUIREMENTS = Requirements(family="pump", features=FEATURES, reserve_bytes=1000)
TRIAL_WINDOWS = 3


def golden_of(int8_model: bytes) -> GoldenVectors:
    return make_golden_vectors(Int8Model(int8_model), 4)


def make_bundle(
    version: int,
    *,
    key: Ed25519PrivateKey = RELEASE_KEY,
    features: FeatureSpec = FEATURES,
    int8_model: bytes | None = None,
    golden: GoldenVectors | None = None,
    architecture: Architecture = ARCHITECTURE,
    family: str = "pump",
    training_run: str | None = None,
    training: TrainingSettings | None = None,
    seed: int | None = None,
    graph_suffix: bytes = b"",
) -> bytes:
    """A signed bundle of the small autoencoder; its threshold depends on `version`, so each has other bytes."""
    detector = int8_model or MODELS.joinpath("healthy.int8.tflite").read_bytes()
    files = bundle_files(
        int8_model=detector,
        training_model=MODELS.joinpath("training.tflite").read_bytes() + graph_suffix,
        parameters=initial_parameters(ARCHITECTURE, version if seed is None else seed),
        reference=DriftReference(
            edges=tuple(tuple(np.linspace(-1, 1, 9).tolist()) for _ in range(4)),
            mean=(0.0,) * 4,
            std=(1.0,) * 4,
            score_mean=0.1,
            score_std=0.1,
            fitted_on=100,
        ),
        golden=golden or golden_of(MODELS.joinpath("healthy.int8.tflite").read_bytes()),
    )
    manifest = Manifest(
        family=family,
        version=version,
        created_at=1000.0 + version,
        model=architecture.to_manifest(),
        features=features,
        training=training,
        threshold=ThresholdSpec(score=0.5 + version, quantile=0.99, margin=1.1, fitted_on=100),
        files=entries_for(files),
        provenance=Provenance(training_run=training_run),
    )
    return pack_bundle(manifest, files, key)


def ask(content: bytes, version: int, counter: int | None = None, *, family: str = "pump") -> DesiredState:
    """The desired state that makes a device install `content`."""
    number = counter or version
    return DesiredState(
        execution=f"e{number}",
        release=f"{family}/{version}",
        counter=number,
        bundle_path=f"/v1/releases/{family}/{version}/bundle",
        bundle_sha256=hashlib.sha256(content).hexdigest(),
        bundle_bytes=len(content),
    )


@dataclass
class FleetInMemory:
    """A `BundleSource`: serves bundles by path, honours offsets, breaks off where told; `on_chunk`: a chunk has arrived."""

    bundles: dict[str, bytes] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)
    chunk_bytes: int = 4096
    on_chunk: Callable[[], None] = lambda: None
    is_away: bool = False
    ignores_ranges: bool = False

    def offer(self, content: bytes, version: int, counter: int | None = None) -> DesiredState:
        desired = ask(content, version, counter)
        self.bundles[desired.bundle_path] = content
        return desired

    @contextmanager
    def bundle(self, path: str, *, offset: int = 0) -> Iterator[BundleStream]:
        self.requests.append((path, offset))
        if self.is_away:
            raise FleetUnreachableError("the fleet refused the connection")
        offset = 0 if self.ignores_ranges else offset
        yield BundleStream(offset=offset, chunks=self._chunks(self.bundles[path][offset:]))

    def _chunks(self, content: bytes) -> Iterator[bytes]:
        limit = self.break_after.pop(0) if self.break_after else None
        for start in range(0, len(content), self.chunk_bytes):
            if limit is not None and start >= limit:
                raise FleetUnreachableError("the fleet broke off")
            yield content[start : start + self.chunk_bytes]
            self.on_chunk()


@dataclass
class ListOfAll:
    """A `ReleaseList` on which everything stands but for what is `taken` from it; `trouble` is what asking raises."""

    taken: set[str] = field(default_factory=set)
    trouble: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def check_listed(self, release: str, sha256: str, length: int) -> None:
        self.asked.append(release)
        if self.trouble is not None:
            raise self.trouble
        if sha256 in self.taken:
            raise ReleaseRefusedError(f"{release} is not let in: the signed repository does not list it")

    def has_listed(self, release: str, sha256: str, length: int) -> bool:
        return sha256 not in self.taken

    def problems(self) -> list[str]:
        return []


@dataclass
class TrustingProbe:
    """A `ModelProbe` that finds every model good, and counts."""

    probed: list[str] = field(default_factory=list)

    def run(self, release: str, content: bytes, is_interrupted: Callable[[], bool]) -> ProbeResult | None:
        self.probed.append(release)
        return ProbeResult(latency_p50_us=5.0)


class Patient(Inbox):
    """An inbox whose pauses take no time: the clock jumps instead."""

    def __init__(self) -> None:
        self.time_s = 0.0
        super().__init__(clock=lambda: self.time_s, jitter=lambda: 0.5)

    def wait(self, seconds: float) -> None:
        self.time_s += seconds


class Device:
    """The installer on real files below `root`; `restart` is what a new process does."""

    def __init__(self, root: Path, **overrides: object) -> None:
        self.root = root
        self.fleet = FleetInMemory()
        self.probe = TrustingProbe()
        takes: Iterable[bytes] = overrides.pop("takes", ())  # type: ignore[assignment]  # bundles that are not on the list
        self.listed = ListOfAll({hashlib.sha256(content).hexdigest() for content in takes})
        self.free_bytes = 10**9
        self.hindrance = ""
        self.overrides = overrides
        self.reports: list[InstallReport] = []
        self.told: list[CommandResult] = []
        self.beside: ShadowReport | str | None = ShadowReport(outcome=ShadowOutcome.PASSED, note="as told")
        self.installer = self._open()

    def _open(self) -> Installer:
        store, record = BundleStore(self.root / "bundles"), WindowRecord()
        tools = InstallTools(
            store=store,
            source=self.overrides.get("source", self.fleet),  # type: ignore[arg-type]  # a port
            probe=self.overrides.get("probe", self.probe),  # type: ignore[arg-type]  # a port
            trust=self.listed,
            requirements=REQUIREMENTS,
            baseline=record.baseline,
            free_bytes=lambda: self.free_bytes,
            hindrance=lambda missing: self.hindrance,
        )
        return Installer(
            journal_file=self.overrides.get("journal_file") or JournalFile(self.root / "install.json"),  # type: ignore[arg-type]  # a fake port
            tools=tools,
            record=record,
            limits=InstallLimits(
                download=DownloadLimits(deadline_s=60.0), trial=TrialLimits(windows=TRIAL_WINDOWS)
            ),
            inbox=Patient(),
        )

    def restart(self) -> None:
        """End in good order and start again."""
        self.installer.close()
        self.installer = self._open()

    def crash(self) -> None:
        """Be cut off and start again."""
        self.installer._tools.store.unlock()  # as the kernel does
        self.installer = self._open()

    def work(self) -> list[InstallReport]:
        """Do what waits, and return the new reports; a candidate passes its shadowing unless `beside` says otherwise."""
        self.installer.run_pending()
        candidate = self.installer.candidate()
        if candidate is not None and self.beside is not None:
            self.installer.on_shadow(candidate.ref.sha256, self.beside)
            self.installer.run_pending()
        reports = self.installer.poll()
        self.reports += reports
        return reports

    def submit(self, desired: DesiredState) -> list[InstallReport]:
        self.told += self.installer.submit(desired)
        return self.work()

    def watch(
        self, windows: int = TRIAL_WINDOWS, *, latency_us: float = 10.0, error: str | None = None
    ) -> list[InstallReport]:
        for _ in range(windows):
            self.installer.active()
            self.installer.on_window(None if error else 0.1, latency_us, error)
        return self.work()

    def install(
        self, version: int, counter: int | None = None, content: bytes | None = None
    ) -> list[InstallReport]:
        """Bring a good version all the way to COMMITTED."""
        offered = self.fleet.offer(content or make_bundle(version), version, counter)
        return self.submit(offered) + self.watch()

    @property
    def release(self) -> str | None:
        active = self.installer.active()
        return active.release if active else None

    @property
    def journal(self) -> Journal:
        journal = JournalFile(self.root / "install.json").read()
        assert journal is not None
        return journal


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)
