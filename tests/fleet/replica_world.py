"""Two replicas of the fleet as processes of their own, on one PostgreSQL and one Mosquitto, and devices that lose nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from fleet_api_world import Fleet
from fleet_world import DeviceClient, Machine, bundle, fleet_process, kill
from mosquitto_site import MosquittoSite
from sqlalchemy import update
from waiting import AMPLE_S, wait_until

from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event, decode
from protocol.messages.kinds import InstallStatus, InstallStep, Kind
from protocol.messages.payloads import DesiredState, InstallReport, Payload

RESEND_S = 1.0


class Worker:
    """A device: keeps what it said until it is acknowledged, and installs at once what it shall run."""

    def __init__(self, site: MosquittoSite, machine: Machine) -> None:
        own = site.certificate(machine.name)
        self.machine = machine
        self.client = DeviceClient(site.broker.port, machine.name, site.broker.client_tls(own))
        self.obeyed: list[DesiredState] = []
        self._seen, self._sent_at = 0, 0.0
        self._outbox: dict[int, Event] = {}

    def say(self, data: Payload) -> None:
        event = self.machine.event(data, at=time.time())
        self._outbox[event.sequence] = event
        self.client.publish(event)

    def tend(self) -> None:
        """Obey what came, and say again what nobody has acknowledged for a while."""
        for number in {number for _, number in set(self.client.acked)} & self._outbox.keys():
            del self._outbox[number]
        heard, self._seen = self.client.desired[self._seen :], len(self.client.desired)
        for payload in filter(None, heard):
            self._obey(payload)
        if self._outbox and time.monotonic() - self._sent_at > RESEND_S:
            self._sent_at = time.monotonic()
            for event in self._outbox.values():
                self.client.publish(event)

    def _obey(self, payload: bytes) -> None:
        word = decode(payload, Kind.DESIRED).data
        assert isinstance(word, DesiredState)
        if self.obeyed and word.counter <= self.obeyed[-1].counter:
            return
        self.obeyed.append(word)
        self.say(
            InstallReport(
                execution=word.execution,
                release=word.release,
                counter=word.counter,
                step=InstallStep.COMMITTED,
                status=InstallStatus.SUCCEEDED,
                progress=1.0,
                active_release=word.release,
            )
        )

    def runs(self, release: str) -> bool:
        return bool(self.obeyed) and self.obeyed[-1].release == release

    @property
    def is_heard(self) -> bool:
        return not self._outbox


class Replica:
    """One process of ``fedge-fleet serve``; may be killed and started again."""

    def __init__(self, site: MosquittoSite, name: str) -> None:
        self._site, self.log = site, site.folder / f"{name}.log"
        self._running = ExitStack()
        self.child: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        self.child, self.url = self._running.enter_context(fleet_process(self._site.config, self.log))

    def kill(self) -> None:
        assert self.child is not None
        kill(self.child)
        self._running.close()

    def close(self) -> None:
        self._running.close()

    def health(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/healthz", timeout=AMPLE_S).json()
        except httpx.HTTPError:
            return {}
        return answer

    @property
    def leads(self) -> bool:
        return bool(self.health().get("leads"))

    @property
    def is_connected(self) -> bool:
        return bool(self.health().get("broker_connected"))


class Plant:
    """The whole: `a` and `b` run, and the workers are enrolled and connected."""

    def __init__(self, folder: Path, database_url: str, workers: int) -> None:
        self.site = MosquittoSite(folder, database_url, is_shared=True)
        self.a, self.b = Replica(self.site, "a"), Replica(self.site, "b")
        self._machines = [Machine(name=f"press-{number}", number=1) for number in range(workers)]
        self.workers: list[Worker] = []

    def start(self) -> None:
        self.site.start()
        self.site.add_devices(*self._machines)
        with self.site.database.write() as session:
            session.execute(update(Device).values(release="motor/1"))
        self.a.start()
        wait_until(lambda: self.a.leads, "the first to lead")
        self.b.start()
        for one in (self.a, self.b):
            wait_until(lambda: one.is_connected, "both to reach the broker")  # noqa: B023 - waited for here
        self.workers = [Worker(self.site, machine) for machine in self._machines]
        for worker in self.workers:
            worker.client.connected.wait()

    def publish_releases(self) -> Fleet:
        client = httpx.Client(base_url=self.a.url, timeout=AMPLE_S)
        fleet = Fleet(client, self.site.database, self.site.folder)  # type: ignore[arg-type] # the same calls
        for version in (1, 2):
            fleet.publish(bundle(version))
        return fleet

    def at(self, fleet: Fleet, replica: Replica) -> Fleet:
        """The same tokens at another replica."""
        fleet.client.base_url = replica.url  # type: ignore[assignment] # a string is taken
        return fleet

    def tend_until(self, condition: Any, what: str) -> Any:
        """Wait, and let the devices do what devices do meanwhile."""

        def looked() -> Any:
            for worker in self.workers:
                worker.tend()
            return condition()

        return wait_until(looked, what, progress=lambda: sum(len(w.client.acked) for w in self.workers))

    def close(self) -> None:
        for worker in self.workers:
            worker.client.close()
        self.a.close()
        self.b.close()
        self.site.close()


@contextmanager
def plant(folder: Path, database_url: str, workers: int = 6) -> Iterator[Plant]:
    made = Plant(folder, database_url, workers)
    try:
        made.start()
        yield made
    finally:
        made.close()
