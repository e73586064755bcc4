"""A real aggregator process in a small world: a fleet over HTTPS, a real broker, learner processes where wanted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from amqtt.broker import Broker
from command_line import run_command
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from flower_world import IDENTITY, Tls
from free_ports import free_port
from secret_file import secret_file
from waiting import AMPLE_S, wait_until

from aggregator.identity import IDENTITY_FILE
from protocol.bundle import peek_manifest
from protocol.identity import private_key_pem
from runtime.durable_files import write_durably

TOKEN = "fo_test"
ROOT = Path(__file__).parents[2]


@dataclass
class HttpFleet:
    """The fleet's endpoints that an aggregator calls, answering from memory over real HTTPS."""

    devices: list[dict[str, Any]] = field(default_factory=list)
    bundles: dict[str, bytes] = field(default_factory=dict)
    lists: dict[str, bytes] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    drift_since: dict[str, float] = field(default_factory=dict)
    precision_drifted_since: float | None = None
    port: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def authenticate(request: Request, call_next: Any) -> Any:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return JSONResponse({"title": "Unauthorized", "status": 401, "detail": "unknown token"}, 401)
            return await call_next(request)

        @app.get("/v1/devices")
        def devices() -> dict[str, Any]:
            return {"items": self.devices, "next_cursor": None}

        @app.get("/v1/releases")
        def releases(family: str) -> dict[str, Any]:
            items = [
                {"id": release, "withdrawn_at": None}
                for release in self.bundles
                if release.startswith(family + "/")
            ]
            return {"items": items, "next_cursor": None}

        @app.get("/v1/releases/{family}/{version}/bundle")
        def bundle(family: str, version: int) -> Response:
            return Response(self.bundles[f"{family}/{version}"])

        @app.post("/v1/releases")
        async def publish(request: Request) -> JSONResponse:
            content = await request.body()
            release = peek_manifest(content).release
            is_new = release not in self.bundles
            if self.bundles.setdefault(release, content) != content:
                return JSONResponse({"status": 409, "detail": f"{release} exists"}, 409)
            return JSONResponse({"id": release}, 201 if is_new else 200)

        @app.get("/v1/trust/roles/{role}")
        def listed(role: str) -> Response:
            found = self.lists.get(role)
            return Response(status_code=404) if found is None else Response(found)

        @app.post("/v1/trust/roles/{role}", status_code=204)
        async def publish_list(role: str, request: Request) -> None:
            self.lists[role] = await request.body()

        @app.get("/v1/rollouts")
        def rollouts() -> dict[str, Any]:
            return {"items": self.rollouts, "next_cursor": None}

        @app.post("/v1/rollouts", status_code=201)
        def create(body: dict[str, Any]) -> dict[str, Any]:
            self.rollouts.append({**body, "id": f"r{len(self.rollouts) + 1}", "state": "READY"})
            return self.rollouts[-1]

        @app.post("/v1/rollouts/{name}:start")
        def start(name: str) -> dict[str, Any]:
            (rollout,) = [r for r in self.rollouts if r["id"] == name]
            rollout["state"] = "RUNNING"
            return rollout

        @app.get("/v1/drift/summary")
        def drift(family: str) -> dict[str, Any]:
            return {
                "family": family,
                "devices": len(self.devices),
                "drifted": len(self.drift_since),
                "drift_since": self.drift_since,
                "precision_drifted_since": self.precision_drifted_since,
            }

        return app


@contextmanager
def serve_fleet(fleet: HttpFleet, tls: Tls) -> Iterator[HttpFleet]:
    """Serve on a free port in a thread; gone afterwards."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    fleet.port = listener.getsockname()[1]
    config = uvicorn.Config(
        fleet.app(), ssl_certfile=tls.cert, ssl_keyfile=tls.key, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the fleet's start")
        yield fleet
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


class EmbeddedBroker:
    """amqtt on a loopback port, in a thread; may be stopped and started again on the same port, having forgotten all."""

    def __init__(self) -> None:
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._broker: Broker | None = None

    def start(self) -> None:
        self._broker = self._wait(self._make())
        self._wait(self._broker.start())

    def stop(self) -> None:
        if self._broker is not None:
            self._wait(self._broker.shutdown())
        self._broker = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _make(self) -> Broker:
        return Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def write_release_key(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def write_config(
    directory: Path, tls: Tls, fleet_port: int, broker_port: int, family: str = "", **top: str
) -> Path:
    """aggregator.toml for family ``press``; `family` is appended to its section."""
    secret_file(directory / "fleet.token", TOKEN)
    (directory / "data").mkdir(exist_ok=True)
    write_durably(directory / "data" / IDENTITY_FILE, private_key_pem(IDENTITY), mode=0o600)
    keys = {
        "listen": f"127.0.0.1:{free_port()}",
        "flower_listen": f"127.0.0.1:{free_port()}",
        "tls_cert": str(tls.cert),
        "tls_key": str(tls.key),
        "data_dir": "data",
        "tenant": "demo",
        "signing_key": "release.key",
        **top,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path = directory / "aggregator.toml"
    path.write_text(
        "\n".join(lines)
        + f"""
watch_every_s = 0.2
[fleet]
url = "https://127.0.0.1:{fleet_port}"
ca_file = {json.dumps(str(tls.ca))}
token_file = "fleet.token"
[mqtt]
url = "mqtt://127.0.0.1:{broker_port}"
[[family]]
name = "press"
rounds = {{ count = 3, join_timeout_s = {AMPLE_S}, join_settle_s = 5, deadline_s = {AMPLE_S} }}
cohort = {{ minimum_devices = 3 }}
{family}
"""
    )
    return path


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`fedge-aggregator serve …` as a process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "aggregator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FLWR_HOME": str(Path(arguments[-1]).parent / "flwr")},
    )


class AggregatorProcess:
    """`fedge-aggregator serve` as a child process with an operator's token."""

    def __init__(self, config: Path, tls: Tls) -> None:
        import tomllib

        self.config, self._tls = config, tls
        whose = ("--name", "tester", "--role", "operator", "--person", "tester")
        made = run_command("aggregator", "tokens", "create", *whose, "--config", str(config))
        assert made.returncode == 0, made.stderr
        self.token_file = config.parent / "operator.token"
        secret_file(self.token_file, made.stdout)
        self.url = f"https://{tomllib.loads(config.read_text())['listen']}"
        self.http = httpx.Client(
            base_url=self.url,
            verify=str(tls.ca),
            timeout=AMPLE_S,
            headers={"Authorization": f"Bearer {made.stdout.strip()}"},
        )
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def client_options(self) -> list[str]:
        return ["--url", self.url, "--ca", str(self._tls.ca), "--token-file", str(self.token_file)]

    def start(self) -> None:
        log = (self.config.parent / "aggregator.log").open("ab")
        with log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "serve", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "FLWR_HOME": str(self.config.parent / "flwr")},
            )
        wait_until(self.is_up, "the aggregator's first answer")

    def is_up(self) -> bool:
        assert self.child is not None
        assert self.child.poll() is None, self.log()
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def log(self) -> str:
        return (self.config.parent / "aggregator.log").read_text()[-4000:]

    def mapped_files(self) -> str:
        """The libraries that the process has loaded."""
        assert self.child is not None
        return Path(f"/proc/{self.child.pid}/maps").read_text()

    def kill(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def terminate(self) -> int:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait()

    def close(self) -> None:
        self.http.close()
        if self.child is not None and self.child.poll() is None:
            self.kill()

    def runs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.http.get("/v1/training-runs").json()["items"]
        return [self.http.get(f"/v1/training-runs/{item['id']}").json() for item in items]

    def wait_for(self, state: str) -> dict[str, Any]:
        """The newest run once it is in `state`; fails at once in another final state."""

        def reached() -> dict[str, Any] | None:
            runs = self.runs()
            if runs and runs[0]["state"] == state:
                return runs[0]
            assert not runs or runs[0]["ended_at"] is None, (runs[0], self.log())
            return None

        run = wait_until(reached, f"a run in {state}")
        assert run is not None
        return run
