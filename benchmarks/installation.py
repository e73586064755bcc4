"""How long a device takes to change its model: undoing a bad one, going back, installing. One JSON object.

    python benchmarks/installation.py [--repeats N]

Real parts throughout: bundles of the 32-16-8-16-32 autoencoder, the journal with its fsyncs, the worker thread, the probe
in its child process; only the network is memory. Each figure names the bound that the design sets, or a peer's. Times
are medians; the file system is that of --directory (default: the system's temporary directory).

`swap_*` is the other half: what the loop does when it takes a release up that the mixture judges, on a machine of 46
sensors with 4096 windows learnt: interpreter, judge and drift monitor, and what is written of them. As in an
installation they were fitted in a thread beside the loop, while windows came every 20 ms; `_unprepared` fits them
where the windows wait, which the agent does while few are learnt. `delay` is how much later than its time the latest window
was judged, and `dropped` how many never were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from edge_agent.detection_memory import DetectionMemory
from edge_agent.fleet_client import BundleStream
from edge_agent.installation.acceptance import Requirements
from edge_agent.installation.assembly import open_installer
from edge_agent.installation.effects import InstallLimits
from edge_agent.installation.installer import Installer
from edge_agent.installation.trial import TrialLimits
from edge_agent.installation.verification import verify
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.bundles import ModelBundle
from models.detection.prior import FleetPrior, fleet_prior
from models.drift.reference import fit_reference
from models.export.release import ReleaseContent, build_release
from models.features import passthrough_spec
from protocol.manifest import FeatureSpec, ThresholdSpec
from protocol.messages.kinds import InstallStatus, ShadowOutcome
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRIAL_WINDOWS = 10
PASSED = ShadowReport(outcome=ShadowOutcome.PASSED)


SENSORS, LEARNT, PERIOD_S = 46, 4096, 0.02
SWAP_BOUND = ("bound: model swap on the device", 1000.0)
FIGURES: dict[str, dict[str, object]] = {}


def report(name: str, value: float, unit: str, peer: str, peer_value: float) -> None:
    FIGURES[name] = {
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": round(value / peer_value, 5) if peer_value else None,
    }


def release(
    version: int,
    *,
    architecture: Architecture = ARCHITECTURE,
    features: FeatureSpec | None = None,
    prior: FleetPrior | None = None,
) -> bytes:
    width = architecture.feature_count
    flat, rng = initial_parameters(architecture, version), np.random.default_rng(version)
    x = rng.normal(size=(200, width)).astype(np.float32)
    low, high = reference_model.ranges(architecture, flat, x)
    content = ReleaseContent(
        architecture=architecture,
        parameters=flat,
        low=low,
        high=high,
        features=features or passthrough_spec(tuple(f"f{i}" for i in range(width))),
        threshold=ThresholdSpec(score=2.0, quantile=0.999, margin=1.1, fitted_on=200),
        reference=fit_reference(x, np.ones(200)),
        family="bench",
        version=version,
        created_at=float(version),
        prior=prior,
    )
    return build_release(content, signing_key=KEY)


class FleetInMemory:
    """Serves the bundles it was given."""

    def __init__(self, bundles: dict[int, bytes]) -> None:
        self._bundles = bundles
        self._counter = 0

    @contextmanager
    def bundle(self, path: str, *, offset: int = 0) -> Iterator[BundleStream]:
        """A `BundleSource` without a network."""
        content = self._bundles[int(path.split("/")[4])]
        yield BundleStream(offset=offset, chunks=iter([content[offset:]]))

    def wants(self, version: int) -> DesiredState:
        """A new desired state for `version`."""
        content, self._counter = self._bundles[version], self._counter + 1
        return DesiredState(
            execution=f"e{self._counter}",
            release=f"bench/{version}",
            counter=self._counter,
            bundle_path=f"/v1/releases/bench/{version}/bundle",
            bundle_sha256=hashlib.sha256(content).hexdigest(),
            bundle_bytes=len(content),
        )


class AllListed:
    """A `ReleaseList` that asks nobody: `benchmarks/update_check.py` says what asking costs."""

    def check_listed(self, release: str, sha256: str, length: int) -> None:
        """It is listed."""

    def has_listed(self, release: str, sha256: str, length: int) -> bool:  # noqa: ARG002 - the port's
        """It is."""
        return True

    def problems(self) -> list[str]:
        """None."""
        return []


class Device:
    """An installer at work, and the loop that it serves."""

    def __init__(self, directory: Path, fleet: FleetInMemory) -> None:
        self._woken = threading.Event()
        self.fleet = fleet
        self.installer: Installer = open_installer(
            journal_file=directory / "install.json",
            bundles=directory / "bundles",
            trust=AllListed(),
            requirements=Requirements(family="bench"),
            source=fleet,
            limits=InstallLimits(trial=TrialLimits(windows=TRIAL_WINDOWS)),
        )
        self.installer.start(wake=self._woken.set)

    def until(self, is_done: Callable[[list[InstallReport]], bool]) -> None:
        """Wait until the reports made since now satisfy `is_done`."""
        reports: list[InstallReport] = []
        while not is_done(reports):
            if not self._woken.wait(60):
                raise SystemExit(f"nothing happened for 60 s; last report: {reports[-1:]}")
            self._woken.clear()
            if (
                candidate := self.installer.candidate()
            ) is not None:  # nothing but the installer is measured here
                self.installer.on_shadow(candidate.ref.sha256, PASSED)
            reports += self.installer.poll()

    def runs(self, version: int) -> bool:
        """Whether the loop would score its next window with `version`."""
        active = self.installer.active()
        return active is not None and active.release == f"bench/{version}"

    def ask(self, version: int) -> None:
        """Let the fleet ask for `version`."""
        self.installer.submit(self.fleet.wants(version))

    def commit(self, version: int) -> None:
        """Install `version` and let its trial pass."""
        self.ask(version)
        self.until(lambda _: self.runs(version))
        for _ in range(TRIAL_WINDOWS):
            self.installer.on_window(0.1, 10.0)
        self.until(lambda reports: any(r.status is InstallStatus.SUCCEEDED for r in reports))


def timed_ms(action: Callable[[], object], done: Callable[[], None] = lambda: None) -> float:
    started = time.perf_counter()
    action()
    done()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--directory", type=Path, default=None)
    arguments = options.parse_args()
    bundles = {version: release(version) for version in range(1, arguments.repeats + 4)}
    content = bundles[1]
    sha256 = hashlib.sha256(content).hexdigest()
    verifying = [timed_ms(lambda: verify(content, sha256), lambda: None) for _ in range(50)]
    report(
        f"verify_bundle_{len(content) // 1000}_kB",
        median(verifying),
        "ms",
        "bound: one window of 100 ms",
        100.0,
    )
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        device = Device(Path(directory), FleetInMemory(bundles))
        try:
            measure(device, arguments.repeats)
        finally:
            device.installer.close()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        measure_swap(Path(directory))
    print(json.dumps(FIGURES, indent=1))


class Loop:
    """A pipeline on a machine of `SENSORS` sensors, as the agent's loop drives it."""

    def __init__(self, directory: Path) -> None:
        rng = np.random.default_rng(1)
        self._causes = rng.normal(size=(SENSORS, 3))
        self.spec = passthrough_spec(tuple(f"f{i}" for i in range(SENSORS)))
        self._rng, self._index = rng, 0
        paths, settings = StatePaths(directory), DetectionSettings()
        self.pipeline = Pipeline(
            self.spec,
            settings,
            memory=DetectionMemory(paths, self.spec),
            stores=open_stores(paths, self.spec, BufferSettings()),
            clock=time.perf_counter,
            wall=time.time,
        )
        others = [(self.rows(240).astype(np.float64), np.ones(SENSORS)) for _ in range(6)]
        self._prior = fleet_prior(others, settings.alarm_rules)

    def rows(self, count: int) -> NDArray[np.float32]:
        """Windows of the healthy machine."""
        x = self._rng.normal(size=(count, 3)) @ self._causes.T + self._rng.normal(size=(count, SENSORS))
        return x.astype(np.float32)

    def bundle(self, version: int) -> ModelBundle:
        """A release that the mixture judges."""
        architecture = Architecture(kind="dense-autoencoder", layers=(SENSORS, 16, 8, 16, SENSORS))
        content = release(version, architecture=architecture, features=self.spec, prior=self._prior)
        return verify(content, hashlib.sha256(content).hexdigest())

    def watch(self, row: NDArray[np.float32]) -> Judged | Unjudged:
        """Judge the next window."""
        self._index += 1
        samples, at_s = row[None, :], 10.0 * self._index
        return self.pipeline.observe(SourceWindow(samples=samples, observed_at_s=at_s, index=self._index))

    def adopt(self, bundle: ModelBundle, *, is_trial: bool) -> None:
        """What the loop does when the installer shows it another release."""
        self.pipeline.adopt(
            bundle.manifest,
            bundle.int8_model,
            bundle_sha256=bundle.sha256,
            is_trial=is_trial,
            prior=bundle.prior,
        )


def measure_swap(directory: Path) -> None:
    loop = Loop(directory)
    for row in loop.rows(150):
        loop.watch(row)
    loop.adopt(loop.bundle(1), is_trial=False)
    for row in loop.rows(LEARNT):
        loop.watch(row)
    normal = loop.pipeline.normal
    for version, is_prepared in ((2, False), (3, True)):
        bundle, latest_ms, dropped = loop.bundle(version), 0.0, 0
        stages = [0.0, 0.0]
        preparation = (
            normal.fitter.prepare(bundle, normal.settings, normal.drift.settings) if is_prepared else None
        )
        due_s, windows_left = time.perf_counter(), 100
        while windows_left:
            if preparation is not None and preparation.done is not None:
                normal.fitter.take(preparation.done)
                preparation = None
            if preparation is None:
                windows_left -= 1
                if windows_left == 80:
                    stages[0] = timed_ms(partial(loop.adopt, bundle, is_trial=True))
                if windows_left == 60:
                    stages[1] = timed_ms(loop.pipeline.commit)
            (row,) = loop.rows(1)
            time.sleep(max(0.0, due_s - time.perf_counter()))
            dropped += not isinstance(loop.watch(row), Judged)
            latest_ms = max(latest_ms, (time.perf_counter() - due_s) * 1000)
            due_s += PERIOD_S
            due_s = max(due_s, time.perf_counter())
        suffix = "" if is_prepared else "_unprepared"
        report(f"swap_to_a_trial{suffix}", stages[0], "ms", *SWAP_BOUND)
        report(f"swap_commit{suffix}", stages[1], "ms", *SWAP_BOUND)
        report(f"swap_longest_delay{suffix}", latest_ms, "ms", *SWAP_BOUND)
        report(f"swap_windows_dropped{suffix}", dropped, "windows", "bound: none", 0)


def measure(device: Device, repeats: int) -> None:
    device.commit(1)
    device.commit(2)
    back = [
        timed_ms(lambda v=v: device.ask(v), lambda v=v: device.until(lambda _: device.runs(v)))
        for v in [1, 2] * repeats
    ]
    report("back_to_a_former_release", median(back), "ms", "bound: model swap-back on the device", 1000.0)
    report("back_to_a_former_release_worst", max(back), "ms", "bound: model swap-back on the device", 1000.0)
    undo, install = [], []
    for version in range(3, 3 + repeats):
        ask = timed_ms(
            lambda v=version: device.ask(v), lambda v=version: device.until(lambda _: device.runs(v))
        )
        install.append(ask / 1000)
        undo.append(
            timed_ms(
                lambda: device.installer.on_window(None, 0.0, "failed"),
                lambda: device.until(lambda _: device.runs(2)),
            )
        )
    report("undo_a_failing_release", median(undo), "ms", "bound: model swap-back on the device", 1000.0)
    report("undo_a_failing_release_worst", max(undo), "ms", "bound: model swap-back on the device", 1000.0)
    report("install_without_network_with_probe", median(install), "s", "bound: 30 s of the probe", 30.0)
    calls = [timed_ms(lambda: device.installer.on_window(0.1, 10.0), lambda: None) for _ in range(2000)]
    report("on_window_call", median(calls) * 1000, "us", "bound: agent overhead per window", 20.0)


if __name__ == "__main__":
    main()
