"""What a device sends while its fleet is away and its broker is not, and how soon it is back. One JSON object per figure.

    python benchmarks/fleet_away.py [--minutes 5]

A real `fedge-agent run` with the default settings of outbox, link and health watches a machine that has an anomaly every ten
seconds, against a real Mosquitto over TLS. A fleet acknowledges; it goes away for `--minutes`; it returns. Bytes are counted
at a TCP proxy before the broker, TLS and all, and given for an hour: the first minute, which holds the window that was
under way, apart. Then the same agent meets a broker that answers pings and acknowledges nothing. `bound` is the target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "edge_agent")]

from agent_broker import ListeningFleet, agents_broker  # noqa: E402 - needs the path above
from agent_world import (  # noqa: E402 - as above
    DEVICE,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from hostile_broker import HostileBroker  # noqa: E402 - as above
from mosquitto_broker import MosquittoBroker  # noqa: E402 - as above
from waiting import wait_until  # noqa: E402 - as above

from edge_agent.health import memory_pss_bytes  # noqa: E402 - as above

FASTER = "[health]\nevery_s = 0.5\nstatus_every_s = 0.1\n"
BROKEN: list[str] = []


class CountingProxy:
    """Passes bytes on to the broker and counts those of the device."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            device, _ = self._server.accept()
            broker = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pass_on, args=(device, broker, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(broker, device, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:  # noqa: FBT001 - a thread's argument
        with contextlib.suppress(OSError), source, target:
            while chunk := source.recv(65536):
                self.sent += len(chunk) if is_counted else 0
                target.sendall(chunk)


def show(name: str, value: float, unit: str, bound: float | None = None) -> None:
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "bound": bound}), flush=True)
    if bound is not None and value > bound:
        BROKEN.append(name)


def write_config(folder: Path, url: str, broker: MosquittoBroker | None) -> Path:
    # A fault of 5 windows in every 50, at 5 windows a second.
    rows = np.concatenate([healthy(70), *([faulty(5), healthy(45, 9) * 0.5] * 5)])
    folder.mkdir()
    config = write_device(
        folder, rows=rows, speed=5.0, mqtt_url=url, mqtt_ca=broker.ca_file if broker else None,
        connection=broker.certificates.connection(DEVICE) if broker else None, bundle=make_bundle(),
    )  # fmt: skip
    text = config.read_text().replace(FASTER, "").replace("reconnect_max_s = 0.5\n", "")
    config.write_text(text)
    return config


def away(folder: Path, minutes: float) -> None:
    with agents_broker(folder) as broker:
        proxy = CountingProxy(broker.port)
        config = write_config(folder / "device", f"mqtts://127.0.0.1:{proxy.port}", broker)
        fleet = ListeningFleet(broker)
        with running_agent(config) as agent:
            wait_until(lambda: bool(status_of(config).get("commissioned")), "commissioning")
            wait_until(lambda: int(str(health_of_status(config)["anomalies"])) >= 2, "anomalies")
            fleet.close()
            first = proxy.sent
            time.sleep(60)
            second = proxy.sent
            time.sleep(60 * (minutes - 1))
            third = proxy.sent
            problems = status_of(config)["problems"]
            waiting = int(str(health_of_status(config)["outbox_events"]))
            began_s = time.monotonic()
            fleet = ListeningFleet(broker)
            wait_until(lambda: bool(fleet.events), "the first word")
            heard_s = time.monotonic() - began_s
            wait_until(lambda: int(str(health_of_status(config)["outbox_events"])) <= 1, "all that waited")
            recovered_s = time.monotonic() - began_s
            fleet.close()
            agent.terminate()
            agent.wait()
    show("bytes_in_the_first_minute_without_a_fleet", second - first, "B")
    show("bytes_an_hour_without_a_fleet", (third - second) / (minutes - 1) * 60, "B/h", 1e6)
    show("events_that_waited", waiting, "events")
    show("said_in_status", float(any("confirms nothing" in str(p) for p in problems)), "1 is yes")  # type: ignore[attr-defined] # a list
    show("first_word_after_the_fleet_returned", heard_s, "s", 60)
    show("everything_confirmed_after_the_fleet_returned", recovered_s, "s", 60)


def never_acknowledged(folder: Path, minutes: float) -> None:
    with HostileBroker(lambda *_: None) as broker:
        config = write_config(folder / "other", broker.url, None)
        largest = 0
        with running_agent(config) as agent:
            wait_until(lambda: broker.connections > 0, "the connection")
            began_s = time.monotonic()
            while time.monotonic() - began_s < 60 * minutes:
                largest = max(largest, memory_pss_bytes(Path(f"/proc/{agent.pid}/smaps_rollup")))
                time.sleep(1)
            told = int(str(health_of_status(config)["telemetry_bytes"]))
            read = broker.bytes_read
    show("pss_under_a_broker_that_acknowledges_nothing", largest / 1e6, "MB", 60)
    show("bytes_that_it_read", read, "B")
    show("bytes_that_the_device_says_it_sent", told, "B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        away(Path(directory), options.minutes)
        never_acknowledged(Path(directory), options.minutes / 2)
    if BROKEN:
        sys.exit(f"not as it has to be: {', '.join(BROKEN)}")


if __name__ == "__main__":
    main()
