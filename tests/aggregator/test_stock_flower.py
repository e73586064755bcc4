"""The learner's ClientApp and the aggregator's secure round under stock Flower: nothing of ours needs our own server or client.

::

    flower-superlink (TLS, node authentication) ─► ServerApp process: SecureCollector over Flower's own Grid
        ▲ 3 × flower-supernode, each with its device's identity key ─► a process per message: client_app ─► the device's side
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import flower_world
import msgspec
import numpy as np
import psutil
import pytest
import secure_world
from cryptography.hazmat.primitives import serialization
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from free_ports import free_port, is_taken
from stock_flower_device import SumSides
from stock_flower_server import DIRECTORY, Member, Outcome
from waiting import wait_until

from protocol.identity import public_key_pem
from protocol.names import DeviceId

COMMANDS = ("flower-superlink", "flower-supernode", "flower-superexec")
SCRIPTS = Path(sys.executable).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(
        any(shutil.which(name, path=str(SCRIPTS)) is None for name in COMMANDS),
        reason=f"stock Flower's commands ({', '.join(COMMANDS)}) are not installed beside this Python",
    ),
]

PYPROJECT = """
[project]
name = "interop"
version = "1.0.0"
description = "One secure round under stock Flower"
license = "Apache-2.0"
dependencies = ["flwr==1.42.0"]
[tool.flwr.app]
publisher = "fedge"
[tool.flwr.app.components]
serverapp = "interop.server:app"
clientapp = "interop.client:app"
"""


class Processes:
    """Stock Flower's processes, and whatever they start: all are gone after `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: str, *arguments: str, **variables: str) -> None:
        tests = Path(__file__).parent
        home = self._directory / f"flower-{name}"
        home.mkdir()
        environment = {
            **os.environ,
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(map(str, (tests.parents[1], tests.parent, tests))),
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            **variables,
        }
        with (self._directory / f"{name}.log").open("wb") as log:
            self._started[name] = subprocess.Popen(
                [str(SCRIPTS / command), *arguments],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )

    def require_running(self) -> None:
        for name, process in self._started.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self._directory.glob("*.log"))
        )

    def stop(self) -> None:
        # Looked up while they can still be traced to their parents: some lead a process group of their own.
        started = [
            child
            for process in self._started.values()
            if process.poll() is None
            for child in psutil.Process(process.pid).children(recursive=True)
        ]
        for process in self._started.values():
            process.terminate()
        deadline = time.monotonic() + 5
        for process in self._started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    try:
        yield running
    finally:
        running.stop()


def build_fab(directory: Path) -> bytes:
    package = directory / "interop"
    package.mkdir(parents=True)
    (directory / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text('"""Generated for one test."""\n')
    for side in ("server", "device"):
        module = package / f"{'client' if side == 'device' else side}.py"
        module.write_text(f"from stock_flower_{side} import {side}_app\n\napp = {side}_app()\n")
    return build_fab_from_disk(directory)


def connect(port: int, tls: flower_world.Tls, processes: Processes) -> ControlHttpClient:
    def listens() -> bool:
        processes.require_running()
        return is_taken(port)

    wait_until(listens, "the SuperLink listens")
    return ControlHttpClient.from_server_address(
        f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=tls.ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )


def start_supernode(
    device: secure_world.Device,
    directory: Path,
    port: int,
    tls: flower_world.Tls,
    sides: SumSides,
    processes: Processes,
) -> None:
    key = directory / f"{device.id}.key"
    key.write_bytes(
        device.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    processes.start(
        device.id,
        "flower-supernode",
        *("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(tls.ca)),
        *("--auth-supernode-private-key", str(key), "--port", str(free_port())),
        **sides.environment(device.id),
    )


def test_stock_superlink_and_supernodes_carry_a_secure_round_whose_sum_is_the_plain_sum(
    tmp_path: Path, processes: Processes
) -> None:
    tls, port = flower_world.make_tls(tmp_path), free_port()
    world = secure_world.World(tmp_path, 3)
    sides = SumSides({name: device.side for name, device in world.devices.items() if device.side})
    fab = build_fab(tmp_path / "app")
    processes.start(
        "superlink",
        "flower-superlink",
        *("--ssl-certfile", str(tls.cert), "--ssl-keyfile", str(tls.key), "--ssl-ca-certfile", str(tls.ca)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        **{DIRECTORY: str(tmp_path)},
    )
    with sides.serving(), contextlib.closing(connect(port, tls, processes)) as control:
        cohort: dict[str, Member] = {}
        for device in world.devices.values():
            public_key = public_key_pem(device.key.public_key())
            registered = control.RegisterNode(RegisterNodeRequest(public_key=public_key))
            cohort[device.id] = Member(node=registered.node_id, public_key=public_key.decode())
            start_supernode(device, tmp_path, port, tls, sides, processes)
        (tmp_path / "cohort.json").write_bytes(msgspec.json.encode(cohort))
        control.StartRun(StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {}))))
        outcome = wait_for_outcome(tmp_path / "outcome.json", processes)
    assert not outcome.failure, f"{outcome.failure}\n{processes.logs()}"
    assert outcome.participants == sorted(world.devices)
    plain = np.sum([device.answer for device in world.devices.values()], axis=0, dtype=np.float64)
    np.testing.assert_allclose(outcome.total, plain, atol=1e-3)
    total = np.asarray(outcome.total)
    assert secure_world.FIT_LAYOUT.unpack(total)["votes"] == [3]
    # Four stages, each through every device's own SuperNode, once.
    expected = [(stage, name) for stage in ("advertise", "mask", "share_keys", "unmask") for name in cohort]
    assert sorted(sides.stages) == sorted((stage, DeviceId(name)) for stage, name in expected)


def wait_for_outcome(path: Path, processes: Processes) -> Outcome:
    def is_there() -> bool:
        processes.require_running()
        return path.exists()

    wait_until(is_there, "the outcome")
    return msgspec.json.decode(path.read_bytes(), type=Outcome)
