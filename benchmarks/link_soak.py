"""Four agents against Mosquitto over TLS while their connections are cut every few seconds. One JSON line per figure.

    python benchmarks/link_soak.py [--minutes 30] [--agents 4] [--seed 1]

Each `fedge-agent run` process reaches the broker through a small TCP proxy of this benchmark, which cuts every
connection (a reset to both sides) one to five seconds after it was made. Whatever ends otherwise was lost for a
reason of ours: `lost_for_a_reason_of_ours` must be 0. The fleet here acknowledges each event once it has it;
`anomalies_missing` counts those that no delivery ever had, `events_waiting` what is still in an outbox at the end.
`bound` is the target. Mosquitto's own log must know of no more endings than were cut, and of no damaged record; the agents'
logs of no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "edge_agent")]

from agent_world import (  # noqa: E402 - needs the path above; the same small device as in the tests
    TENANT,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from mosquitto_broker import MosquittoBroker  # noqa: E402 - as above
from sealing_world import fleet_message  # noqa: E402 - as above
from waiting import wait_until  # noqa: E402 - as above

from protocol.messages.envelope import decode  # noqa: E402 - as above
from protocol.messages.kinds import Kind  # noqa: E402 - as above
from protocol.messages.payloads import Ack, AnomalyEvent, BootAck  # noqa: E402 - as above
from protocol.topics import UPLINK_KINDS, device_topic, parse_device_topic, uplink_filter  # noqa: E402 - as above

UPLINKS = tuple(sorted(UPLINK_KINDS))
SHORTEST_S, LONGEST_S = 1.0, 5.0
ENDINGS = ("closed its connection.", "disconnected: protocol error.")
"""Mosquitto's words for a connection that was cut: it read the end, or was just writing (EPROTO of OpenSSL)."""
WRONG = (
    "malformed",
    "bad record",
    "bad length",
    "decryption failed",
    "wrong version",
    "alert",
    "due to protocol error",
)


class CuttingProxy:
    """Passes bytes on and cuts each connection after a random time; counts how connections ended."""

    def __init__(self, broker_port: int, seed: int) -> None:
        self.connections = self.cut = self.ended_otherwise = 0
        self.is_cutting = True
        self.port = 0
        self._broker_port = broker_port
        self._random = random.Random(seed)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()
        self._ready.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        pipes = [
            asyncio.ensure_future(_pipe(reader, inner_writer)),
            asyncio.ensure_future(_pipe(inner_reader, writer)),
        ]
        while True:
            life_s = self._random.uniform(SHORTEST_S, LONGEST_S)
            done, _ = await asyncio.wait(pipes, timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
            if done or self.is_cutting:
                break
        if done:
            self.ended_otherwise += self.is_cutting
        else:
            self.cut += 1
        for pipe in pipes:
            pipe.cancel()
        for end in (writer, inner_writer):
            end.close() if done else end.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


class Fleet:
    """Keeps the number of every event, and acknowledges it; connected to the broker itself, never cut."""

    def __init__(self, broker: MosquittoBroker) -> None:
        self.numbers: dict[str, set[int]] = defaultdict(set)
        self.anomalies: set[str] = set()
        self.deliveries = 0
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="fleet")
        self._client.tls_set_context(broker.client_tls(broker.certificates.service("fleet")))
        self._client.on_message = self._on_message
        self._client.on_connect = lambda c, *_: c.subscribe([(uplink_filter(TENANT, k), 1) for k in UPLINKS])
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        subscribed.wait()

    def _on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        event = decode(bytes(message.payload), parse_device_topic(message.topic).kind)
        if event.sequence == 0:
            return  # a last will: the broker speaks for a device whose connection was cut
        self.deliveries += 1
        if isinstance(event.data, AnomalyEvent):
            self.anomalies.add(event.id)
        self.numbers[f"{event.source}/{event.boot_id}"].add(event.sequence)
        ack = Ack(boots=(BootAck(boot_id=event.boot_id, ranges=((event.sequence, event.sequence),)),))
        answer = fleet_message(ack, tenant=TENANT, device=event.source)
        client.publish(device_topic(TENANT, event.source, Kind.ACK), answer, qos=1)

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def passed_over(self) -> int:
        """Numbers below the highest of their boot that never arrived: health that was out of date by then."""
        return sum(max(seen) - len(seen) for seen in self.numbers.values())


BROKEN: list[str] = []
"""Figures that are not what they have to be; the exit code tells `make prove`."""


def show(name: str, value: float, unit: str, bound: float | None = None) -> None:
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "bound": bound}), flush=True)
    if bound is not None and value != bound:
        BROKEN.append(name)


def make_device(folder: Path, name: str, proxy_port: int, broker: MosquittoBroker) -> Path:
    folder.mkdir()
    # A fault of 20 windows in every 100: anomalies with their raw window come steadily.
    rows = np.concatenate([healthy(100), *([faulty(20), healthy(80, 9) * 0.5] * 3)])
    url = f"mqtts://127.0.0.1:{proxy_port}"
    config = write_device(
        folder, rows=rows, speed=50.0, mqtt_url=url, mqtt_ca=broker.ca_file, bundle=make_bundle(),
        connection=broker.certificates.connection(name), extra="[outbox]\nresend_s = 2.0\n",
    )  # fmt: skip
    # As often as the loop turns: each reconnection finds something to publish at once.
    config.write_text(config.read_text().replace("every_s = 0.5\n", "every_s = 0.1\n", 1))
    (folder / "state" / "enrolment.json").write_text(json.dumps({"device": name, "tenant": TENANT}))
    return config


def soak(folder: Path, minutes: float, agents: int, seed: int) -> None:
    names = [f"pump-{n:02d}" for n in range(1, agents + 1)]
    with ExitStack() as stack:
        broker = stack.enter_context(
            MosquittoBroker(folder, knows_clients=True, settings=["max_queued_messages 0"])
        )
        proxy = CuttingProxy(broker.port, seed)
        fleet = Fleet(broker)
        stack.callback(fleet.close)
        configs = [make_device(folder / name, name, proxy.port, broker) for name in names]
        processes = [stack.enter_context(running_agent(config)) for config in configs]
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and all(p.poll() is None for p in processes):
            time.sleep(1)
        died = sum(p.poll() is not None for p in processes)
        proxy.is_cutting = False
        figures = (proxy.connections, proxy.cut, proxy.ended_otherwise)
        wait_until(lambda: all(_is_drained(config) for config in configs), "the outboxes to drain")
        waiting = sum(int(str(health_of_status(c)["outbox_events"])) for c in configs)
        opened = sum(int(str(health_of_status(c)["anomalies"])) for c in configs)
        counted = sum(int(str(status_of(c)["broker_connections"])) for c in configs)
        said = broker.log.read_text(errors="replace").lower().splitlines()
        for process in processes:
            process.terminate()
        clean = sum(process.wait(60) == 0 for process in processes)
        tracebacks = sum(c.with_name("agent.log").read_text().count("Traceback") for c in configs)
    show("minutes", minutes, "min")
    show("agents", agents, "processes")
    show("connections_made", figures[0], "connections")
    show("connections_counted_by_the_agents", counted, "connections")
    show("cut_by_the_proxy", figures[1], "connections")
    show("lost_for_a_reason_of_ours", figures[2], "connections", 0)
    endings = [line for line in said if any(line.endswith(words) for words in ENDINGS)]
    show("ended_at_the_broker_beyond_the_cuts", max(0, len(endings) - figures[1]), "connections", 0)
    wrong = [line for line in said if any(word in line for word in WRONG)]
    show("tls_errors_at_the_broker", len(wrong), "lines", 0)
    show("agents_that_died", died, "processes", 0)
    show("tracebacks", tracebacks, "lines", 0)
    show("clean_stops", clean, "processes", agents)
    show("events_delivered", fleet.deliveries, "messages")
    show("events_told_apart", sum(len(seen) for seen in fleet.numbers.values()), "events")
    show("anomalies_missing", max(0, opened - len(fleet.anomalies) - waiting), "events", 0)
    show("health_messages_passed_over", fleet.passed_over, "events")
    show("events_waiting", waiting, "events")
    for line in wrong[:5]:
        print(json.dumps({"name": "broker_says", "value": line}), flush=True)


def _is_drained(config: Path) -> bool:
    # Health goes out all the time, so an outbox is seldom empty; what remains must be of this moment.
    status = status_of(config)
    return bool(status.get("broker_connected")) and int(str(health_of_status(config)["outbox_events"])) <= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    with tempfile.TemporaryDirectory() as directory:
        soak(Path(directory), options.minutes, options.agents, options.seed)
    if BROKEN:
        sys.exit(f"not as it has to be: {', '.join(BROKEN)}")


if __name__ == "__main__":
    main()
