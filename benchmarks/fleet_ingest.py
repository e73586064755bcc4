"""How fast the fleet stores events durably, and whether its API answers meanwhile. Prints JSON.

``python benchmarks/fleet_ingest.py [--events 20000] [--devices 200] [--gaps 150000] [--rate 1000 --seconds 10]``

Three measurements:

* ``store``: judging, storing and committing (SQLite, WAL, synchronous=FULL) in batches of 500, without a network; and the CPU of
  the same messages when they come once more;
* ``gaps``: the same before and after one device has sent `--gaps` odd sequence numbers, while it goes on sending one in
  each batch: what a device costs the others that leaves a hole between any two of its events;
* ``service``: the real process behind a real Mosquitto, fed `rate` QoS 0 messages a second by one client, while
  another asks ``GET /v1/devices`` all the time. `acked_per_s` counts events whose acknowledgement came back.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import httpx
import paho.mqtt.client as paho
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mosquitto_broker import MosquittoBroker  # noqa: E402 - needs the path above

from fleet.auth.operator_tokens import PREFIX, SessionRows  # noqa: E402 - as above
from fleet.ingest.judging import Arrival  # noqa: E402 - as above
from fleet.ingest.store import EventStore  # noqa: E402 - as above
from fleet.metrics import FleetMetrics  # noqa: E402 - as above
from fleet.migrations.upgrade import open_storage  # noqa: E402 - as above
from fleet.storage.base import Database  # noqa: E402 - as above
from fleet.storage.boot_tables import EventRange  # noqa: E402 - as above
from fleet.storage.device_tables import Device  # noqa: E402 - as above
from protocol.identity import public_key_pem  # noqa: E402 - as above
from protocol.messages.envelope import Event, decode, encode  # noqa: E402 - as above
from protocol.messages.kinds import AgentState, Kind  # noqa: E402 - as above
from protocol.messages.payloads import Ack, AnomalyEvent, Health  # noqa: E402 - as above
from protocol.topics import device_topic  # noqa: E402 - as above
from service.roles import Role  # noqa: E402 - as above
from service.tokens import TokenGrant, create_token  # noqa: E402 - as above

TENANT = "bench"
BATCH = 500


def enrol(database: Database, devices: list[str]) -> None:
    key = public_key_pem(ec.generate_private_key(ec.SECP256R1()).public_key()).decode()
    with database.write() as session:
        for name in devices:
            session.add(
                Device(
                    id=name,
                    fingerprint=secrets.token_hex(32),
                    public_key=key,
                    hardware="rpi4",
                    family="motor",
                    labels={},
                    enrolled_at=0.0,
                )  # fmt: skip - one line of fields
            )


def message(device: str, sequence: int, now: float) -> tuple[str, bytes]:
    """Three health messages to each anomaly with a window of 256 values."""
    if sequence % 4:
        health = Health(state=AgentState.WATCHING, release="motor/1", uptime_s=1.0, windows=sequence)
        kind, data = Kind.HEALTH, health
    else:
        kind = Kind.ANOMALY
        data = AnomalyEvent(
            release="motor/1",
            score=2.0,
            threshold=1.0,
            window_index=sequence,
            observed_at_s=1.0,
            window="A" * 1364 + "AA==",
            window_shape=(256, 1),
        )  # fmt: skip - one line of fields
    event = Event(source=device, boot_id="bench", sequence=sequence, time=now, data=data)
    return device_topic(TENANT, device, kind), encode(event)


def measure_store(folder: Path, events: int, devices: int) -> dict[str, float]:
    database = open_storage(f"sqlite:///{folder}/store.sqlite")
    names = [f"d-{n}" for n in range(devices)]
    enrol(database, names)
    store = EventStore(database, TENANT, FleetMetrics())
    arrivals = [
        Arrival(topic=topic, payload=payload, retained=False, received_at=time.time())
        for n in range(events)
        for topic, payload in [message(names[n % devices], n // devices + 1, time.time())]
    ]
    started, cpu_started = time.perf_counter(), time.process_time()
    for start in range(0, events, BATCH):
        store.store(arrivals[start : start + BATCH])
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    cpu_started = time.process_time()
    for start in range(0, events, BATCH):
        store.store(arrivals[start : start + BATCH])
    again_cpu_s = time.process_time() - cpu_started
    database.close()
    return {
        "events": events,
        "seconds": round(seconds, 3),
        "events_per_s": round(events / seconds),
        "cpu_us_per_event": round(1e6 * cpu_s / events, 1),
        "cpu_us_per_duplicate": round(1e6 * again_cpu_s / events, 1),
    }


def measure_gaps(folder: Path, gaps: int, devices: int) -> dict[str, float]:
    database = open_storage(f"sqlite:///{folder}/gaps.sqlite")
    names = [f"d-{n}" for n in range(devices)]
    enrol(database, [*names, "odd"])
    store, sent = EventStore(database, TENANT, FleetMetrics()), count(1)

    def arrival(device: str, sequence: int) -> Arrival:
        topic, payload = message(device, sequence, time.time())
        return Arrival(topic=topic, payload=payload, retained=False, received_at=time.time())

    def cpu_us(batches: int, odd: Iterator[int]) -> float:
        made = []
        for _ in range(batches):
            round_of_all = next(sent)
            made.append([arrival(name, round_of_all) for name in names] + [arrival("odd", next(odd))])
        began = time.process_time()
        for batch in made:
            store.store(batch)
        return 1e6 * (time.process_time() - began) / (batches * (devices + 1))

    odd = count(1, 2)
    cpu_us(5, odd)
    before = cpu_us(20, odd)
    for _ in range(gaps // BATCH):
        store.store([arrival("odd", next(odd)) for _ in range(BATCH)])
    after = cpu_us(20, odd)
    with database.read() as session:
        rows = session.scalar(select(func.count()).select_from(EventRange).where(EventRange.device == "odd"))
    database.close()
    return {
        "odd numbers": gaps,
        "cpu_us_per_event before": round(before, 1),
        "cpu_us_per_event after": round(after, 1),
        "rows of the device": rows or 0,
    }


def measure_service(folder: Path, rate: int, seconds: float, devices: int) -> dict[str, float]:
    names = [f"d-{n}" for n in range(devices)]
    database = open_storage(f"sqlite:///{folder}/data/fleet.sqlite")
    enrol(database, names)
    with database.write() as session:
        grant = TokenGrant(name="bench", role=Role.VIEWER)
        token = create_token(
            SessionRows(session), grant, prefix=PREFIX, now=time.time(), random_bytes=secrets.token_bytes
        )
    database.close()
    with MosquittoBroker(folder, knows_clients=True) as broker:
        config = write_config(folder, broker)
        with (folder / "log").open("w+") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "fleet", "serve", "--config", str(config)], stderr=log
            )
        try:
            wait_for(lambda: "broker_connected" in (folder / "log").read_text(), "the fleet at the broker")
            lines = (folder / "log").read_text().splitlines()
            url = next(json.loads(line)["url"] for line in lines if '"listening"' in line)
            return feed(broker, url, token, names, rate=rate, seconds=seconds)
        finally:
            child.terminate()
            child.wait(15)


def feed(
    broker: MosquittoBroker, url: str, token: str, names: list[str], *, rate: int, seconds: float
) -> dict[str, float]:
    acked: set[tuple[str, int]] = set()

    def on_message(_client: paho.Client, _data: object, got: paho.MQTTMessage) -> None:
        ack = decode(got.payload, Kind.ACK).data
        assert isinstance(ack, Ack)
        device = got.topic.split("/")[3]
        for boot in ack.boots:
            for first, last in boot.ranges:
                acked.update((device, n) for n in range(first, last + 1))

    # this broker has no acl file, so one client can stand for all devices
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.tls_set_context(broker.client_tls(broker.certificates.device("bench")))
    client.on_message = on_message
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_connect = lambda *_: client.subscribe(f"fedge/v1/{TENANT}/+/ack")
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    wait_for(subscribed.is_set, "the subscription to acknowledgements")
    stop = threading.Event()
    latencies: list[float] = []
    asker = threading.Thread(target=ask, args=(url, token, stop, latencies))
    asker.start()
    started, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        while sent < elapsed * rate:
            topic, payload = message(names[sent % len(names)], sent // len(names) + 1, time.time())
            client.publish(topic, payload, qos=0)
            sent += 1
        time.sleep(0.005)
    deadline = time.perf_counter() + 60
    while len(acked) < sent and time.perf_counter() < deadline:
        time.sleep(0.02)
    took = time.perf_counter() - started
    stop.set()
    asker.join()
    client.disconnect()
    client.loop_stop()
    latencies.sort()
    return {
        "offered_per_s": rate,
        "sent": sent,
        "acked": len(acked),
        "acked_per_s": round(len(acked) / took),
        "api_requests": len(latencies),
        "api_p50_ms": round(1000 * statistics.median(latencies), 1),
        "api_p95_ms": round(1000 * latencies[int(0.95 * len(latencies))], 1),
        "api_p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 1),
    }


def ask(url: str, token: str, stop: threading.Event, latencies: list[float]) -> None:
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        while not stop.is_set():
            started = time.perf_counter()
            http.get(f"{url}/v1/devices", params={"limit": 20}).raise_for_status()
            latencies.append(time.perf_counter() - started)
            time.sleep(0.05)


def write_config(folder: Path, broker: MosquittoBroker) -> Path:
    certificate, own_key = broker.certificates.service("fleet")
    config = folder / "fleet.toml"
    config.write_text(
        f"""
        listen = "127.0.0.1:0"
        data_dir = "data"
        tenant = "{TENANT}"
        [mqtt]
        url = "{broker.url}"
        ca_file = "{broker.ca_file}"
        tls_cert = "{certificate}"
        tls_key = "{own_key}"
        shut_out = "none"
        """
    )
    return config


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited 60 s in vain for {what}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure durable ingest")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--gaps", type=int, default=150_000, help="odd numbers of one device; 0 skips it")
    parser.add_argument("--rate", type=int, default=1000, help="messages a second; 0 skips the service")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report("store", measure_store(Path(name), options.events, options.devices))
        if options.gaps:
            report("gaps", measure_gaps(Path(name), options.gaps, options.devices))
        if options.rate:
            folder = Path(name) / "service"
            folder.mkdir()
            report("service", measure_service(folder, options.rate, options.seconds, options.devices))


def report(part: str, measured: Mapping[str, object]) -> None:
    """One JSON line a figure, beside the load that the machine had: it is part of the figure."""
    for name, value in measured.items():
        line = {"name": f"{part}: {name}", "value": value, "cpus": os.cpu_count()}
        print(json.dumps(line | {"load_1min": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
