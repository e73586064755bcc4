"""How long a device takes to change its model: undoing a bad one, going back, installing. One JSON object a line.

    python benchmarks/installation.py [--repeats N]

Real parts throughout: bundles of the 32-16-8-16-32 autoencoder, the journal with its fsyncs, the worker thread, the probe
in its child process; only the network is memory. Each figure names the bound that the design sets, or a peer's. Times
are medians; the file system is that of --directory (default: the system's temporary directory).
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
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.fleet_client import BundleStream
from edge_agent.installation.acceptance import Requirements
from edge_agent.installation.assembly import open_installer
from edge_agent.installation.effects import InstallLimits
from edge_agent.installation.installer import Installer
from edge_agent.installation.trial import TrialLimits
from edge_agent.installation.verification import verify
from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.drift.reference import fit_reference
from models.export.release import ReleaseContent, build_release
from protocol.bundle import TrustedKeys
from protocol.manifest import FeatureSpec, ThresholdSpec
from protocol.messages.kinds import InstallStatus
from protocol.messages.payloads import DesiredState, InstallReport

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRIAL_WINDOWS = 10


def report(name: str, value: float, unit: str, peer: str, peer_value: float) -> None:
    line = {"name": name, "value": round(value, 3), "unit": unit, "peer": peer, "peer_value": peer_value}
    print(json.dumps(line | {"ratio": round(value / peer_value, 5)}), flush=True)


def release(version: int) -> bytes:
    flat, rng = initial_parameters(ARCHITECTURE, version), np.random.default_rng(version)
    x = rng.normal(size=(200, 32)).astype(np.float32)
    low, high = reference_model.ranges(ARCHITECTURE, flat, x)
    content = ReleaseContent(
        architecture=ARCHITECTURE,
        parameters=flat,
        low=low,
        high=high,
        features=FeatureSpec(kind="passthrough", names=tuple(f"f{i}" for i in range(32)), channels=32),
        threshold=ThresholdSpec(score=2.0, quantile=0.999, margin=1.1, fitted_on=200),
        reference=fit_reference(x, np.ones(200)),
        family="bench",
        version=version,
        created_at=float(version),
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


class Device:
    """An installer at work, and the loop that it serves."""

    def __init__(self, directory: Path, fleet: FleetInMemory) -> None:
        self._woken = threading.Event()
        self.fleet = fleet
        self.installer: Installer = open_installer(
            journal_file=directory / "install.json",
            bundles=directory / "bundles",
            keys=TrustedKeys([KEY.public_key()]),
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


def timed_ms(action: Callable[[], None], done: Callable[[], None]) -> float:
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
    keys = TrustedKeys([KEY.public_key()])
    verifying = [timed_ms(lambda: verify(content, sha256, keys), lambda: None) for _ in range(50)]
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
