"""Watches a world through its own doors: the fleet's and the aggregator's HTTP APIs, and the agents' score logs.

It fills a `Record` and changes nothing in the world. A service that is away for a moment (it may just have been killed)
is no error: the record keeps what was last seen.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from protocol.messages.payloads import Health
from simulations.record import (
    NO_HEALTH,
    Alarm,
    DeviceSeen,
    Record,
    RolloutSeen,
    ScoreTrace,
    TrainingSeen,
    is_away,
)
from simulations.world import World

__all__ = ["RENEW_LINK_S", "Observer", "ServiceClient"]

RENEW_LINK_S: Final = 240.0
"""The fleet lets a sign-in link be used for five minutes."""
ANSWER_WITHIN_S: Final = 120.0
"""A POST that was given up may have been carried out, and is refused the second time: a slow machine is waited for."""


class ServiceClient:
    """A small HTTPS client for one service of the world; `token` is read at each call, for it may not exist yet."""

    def __init__(self, address: str, ca_file: Path, token_file: Path) -> None:
        self._address = address
        self._ca_file = ca_file
        self._token_file = token_file
        self._client: httpx.Client | None = None

    def is_up(self) -> bool:
        """Whether ``/healthz`` answers."""
        try:
            return self._http().get("/healthz").is_success
        except (httpx.HTTPError, OSError):
            return False

    def get(self, path: str, **query: str | float) -> Any:
        """JSON of a GET, or None while the service is away."""
        try:
            answer = self._http().get(path, params=query, headers=self._headers())
        except (httpx.HTTPError, OSError):
            return None
        return answer.json() if answer.is_success else None

    def post(self, path: str, *, body: object = None, content: bytes | None = None, tries: int = 20) -> Any:
        """JSON of a POST; tries again while the service is away. Raises httpx.HTTPStatusError for a refusal."""
        for attempt in range(tries):
            try:
                answer = self._http().post(
                    path,
                    json=body if content is None else None,
                    content=content,
                    headers=self._headers()
                    | ({"Content-Type": "application/octet-stream"} if content else {}),
                )
            except (httpx.HTTPError, OSError):
                if attempt == tries - 1:
                    raise
                time.sleep(0.5)
                continue
            if answer.is_error:
                raise httpx.HTTPStatusError(
                    f"{path}: {answer.text[:300]}", request=answer.request, response=answer
                )
            return answer.json() if answer.content else None
        return None

    def download(self, path: str) -> bytes:
        """The bytes behind a GET."""
        answer = self._http().get(path, headers=self._headers())
        answer.raise_for_status()
        return answer.content

    def close(self) -> None:
        """Close the connections."""
        if self._client:
            self._client.close()

    def _http(self) -> httpx.Client:
        if self._client is None:
            context = ssl.create_default_context(cafile=str(self._ca_file))
            self._client = httpx.Client(
                base_url=f"https://{self._address}", verify=context, timeout=ANSWER_WITHIN_S
            )
        return self._client

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}


def told_health(fields: dict[str, Any]) -> Health:
    """A health message as the fleet shows it: null is what the device did not tell."""
    told = {name: value for name, value in fields.items() if value is not None or name == "release"}
    return msgspec.convert(told, Health)


class Observer:
    """Fills the record. `clock` gives wall seconds since the story began; `epoch` is that moment in Unix seconds."""

    def __init__(self, world: World, record: Record, *, clock: Callable[[], float], epoch: float) -> None:
        self.fleet = ServiceClient(world.addresses.fleet, world.plant.ca, world.plant.admin_token)
        self.publisher = ServiceClient(world.addresses.fleet, world.plant.ca, world.plant.publisher_token)
        self.aggregator = ServiceClient(
            world.addresses.aggregator, world.plant.ca, world.plant.operator_token
        )
        self._world = world
        self._record = record
        self.clock = clock
        self._epoch = epoch
        self._logs = {
            d: _ScoreLog(world.device_directory(d) / "state" / "scores.csv", d) for d in world.devices
        }
        self._seen_alarms: set[int] = set()

    def close(self) -> None:
        """Close the connections to the services."""
        for client in (self.fleet, self.publisher, self.aggregator):
            client.close()

    def sign_in_link(self) -> str:
        """Where one browser is signed in as the world's administrator, once, within five minutes; empty while the fleet is away."""
        try:
            made = self.fleet.post("/v1/sign-in-links", tries=1)
        except (httpx.HTTPError, OSError):
            return ""
        return f"{self._world.dashboard}{made['path']}"

    def look(self) -> None:
        """See everything once."""
        self._record.now_s = self.clock()
        self._see_devices()
        self._see_alarms()
        self._see_drift()
        self._see_trainings()
        self._see_rollouts()
        self._see_memory()
        for device, log in self._logs.items():
            if (trace := log.read(self._epoch)) is not None:
                self._record.traces[device] = trace

    def _see_devices(self) -> None:
        answer = self.fleet.get("/v1/devices", limit=500)
        for item in (answer or {}).get("items", []):
            health = item["last_health"] and told_health(item["last_health"])
            self._record.devices[item["id"]] = DeviceSeen(
                device=item["id"],
                hardware=item["hardware"],
                online=item["online"],
                state=health.state if health else item["state"],
                release=item["release"],
                desired_release=item["desired_release"],
                health=health or NO_HEALTH,
            )

    def _see_alarms(self) -> None:
        answer = self.fleet.get("/v1/anomalies", limit=500)
        for item in (answer or {}).get("items", []):
            if item["id"] in self._seen_alarms:
                continue
            self._seen_alarms.add(item["id"])
            self._record.alarms.append(Alarm(device=item["device"], at_s=item["sent_at"] - self._epoch))
        for fault in self._record.faults:
            hits = [
                a.at_s
                for a in self._record.alarms
                if a.device == fault.device and fault.at_s <= a.at_s <= (fault.ended_s or float("inf"))
            ]
            fault.published = len(hits)
            if hits and fault.caught_s is None:
                fault.caught_s = self.clock()

    def _see_drift(self) -> None:
        devices = self._record.devices.values()
        if devices:
            share = sum(is_away(d.health) for d in devices) / len(devices)
            self._record.drift_share.append((self._record.now_s, share))

    def _see_trainings(self) -> None:
        if not self._world.plant.operator_token.exists():
            return
        answer = self.aggregator.get("/v1/training-runs")
        for item in reversed((answer or {}).get("items", [])):
            run = item["id"]
            full = self.aggregator.get(f"/v1/training-runs/{run}") or item
            ended, planned = full.get("ended_at"), full.get("planned_rounds", 0)
            self._record.trainings[run] = TrainingSeen(
                run=run,
                state=full["state"],
                began_s=full["created_at"] - self._epoch,
                ended_s=ended - self._epoch if ended is not None else None,
                planned_rounds=planned,
                rounds=full.get("rounds", []),
                evaluation=full.get("evaluation") or {},
                privacy=full.get("privacy") or {},
                release=full.get("release"),
                reason=full.get("detail") or full.get("reason") or "",
            )

    def _see_memory(self) -> None:
        """Agent and learner of one device together, while a run lasts."""
        for device in self._world.devices:
            agent = self._world.supervisor.processes.get(f"agent-{device}")
            learner = _read_pid(self._world.device_directory(device) / "state" / "learner" / "pid")
            if agent is None or agent.pid is None or learner is None:
                continue
            both = _pss_bytes(agent.pid) + _pss_bytes(learner)
            self._record.learning_memory_bytes = max(self._record.learning_memory_bytes, both)

    def _see_rollouts(self) -> None:
        answer = self.fleet.get("/v1/rollouts")
        for item in reversed((answer or {}).get("items", [])):
            rollout = item["id"]
            known = self._record.rollouts.get(rollout)
            if known and known.ended_s is not None and known.timeline:
                continue
            full = self.fleet.get(f"/v1/rollouts/{rollout}") or item
            is_over = full["state"] in {"COMPLETED", "CANCELED", "ROLLED_BACK"}
            timeline = full.get("timeline", [])
            reasons = [line["reason"] for line in timeline if line["subject"] == "rollout" and line["reason"]]
            self._record.rollouts[rollout] = RolloutSeen(
                rollout=rollout,
                release=full["release"],
                state=full["state"],
                began_s=full["created_at"] - self._epoch,
                ended_s=full["since"] - self._epoch if is_over else None,
                recovered_s=known.recovered_s if known else None,
                groups=[
                    (g["name"], g["state"], g["counts"].get("SUCCEEDED", 0), sum(g["counts"].values()))
                    for g in full.get("groups", [])
                ],
                looks=[
                    (g["name"], look["finding"], look["reason"])
                    for g in full.get("groups", [])
                    for look in g["looks"]
                ],
                timeline=timeline,
                reason=reasons[-1] if reasons else "",
            )


class _ScoreLog:
    """Reads a growing scores.csv, only what is new each time."""

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._device = device
        self._offset = 0
        self._rows: list[tuple[float, float, float, float, float, float]] = []

    def read(self, epoch: float) -> ScoreTrace | None:
        """Everything logged so far, or None before the first window."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return None
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.decode().splitlines():
            cells = line.split(",")
            if len(cells) == 7 and cells[0] != "wall_s":
                over = float(cells[4] in {"1", "True", "true"})
                version = float(cells[5].rpartition("/")[2] or 0)
                self._rows.append(
                    (
                        float(cells[0]) - epoch,
                        float(cells[1]),
                        float(cells[2]),
                        float(cells[3]),
                        over,
                        version,
                    )
                )
        if not self._rows:
            return None
        table = np.asarray(self._rows)
        return ScoreTrace(
            device=self._device,
            at_s=table[:, 0],
            machine_s=table[:, 1],
            score=table[:, 2],
            threshold=table[:, 3],
            over=table[:, 4] > 0,
            release=table[:, 5].astype(np.int64),
        )


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _pss_bytes(pid: int) -> int:
    """Proportional set size; 0 where the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
