"""What the broker that a simulated world embeds can do: ours on amqtt, and Mosquitto beside it.

    python benchmarks/embedded_broker.py [amqtt] [mosquitto]

Each broker runs as a child process over mutual TLS on loopback and answers the same questions, asked by paho over MQTT 3.1.1;
one JSON object a broker. docs/decisions/0011 has the table, iotcore's column from before client certificates.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from broker_under_test import COMMANDS, PATIENCE_S, Site, mosquitto_program, running

MESSAGES: Final = 3000
PAYLOAD: Final = b"x" * 1000


def refuses_strangers(site: Site) -> bool:
    """Nobody in without a certificate."""
    return _is_refused(site, None)


def refuses_plain_mqtt(site: Site) -> bool:
    """A TLS port answers nobody who speaks in clear."""
    with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
        plain.sendall(bytes.fromhex("101000044d5154540402003c000462656e63"))
        try:
            answer = plain.recv(4)
        except (ConnectionError, TimeoutError):
            return True
    return not answer.startswith(b"\x20")


def keeps_retained(site: Site) -> bool:
    """A device that comes later learns what it shall run."""
    fleet = site.client("fleet")
    fleet.publish("fedge/v1/demo/d01/desired", retain=True)
    device = site.client("d01")
    device.subscribe("fedge/v1/demo/d01/desired")
    found = device.hears()
    fleet.leave()
    device.leave()
    return found


def keeps_sessions(site: Site) -> bool:
    """What was sent while a subscriber was away reaches it when it is back."""
    first = site.client("d03", clean=False)
    first.subscribe("fedge/v1/demo/d03/ack")
    first.leave()
    fleet = site.client("fleet")
    for number in range(10):
        fleet.publish("fedge/v1/demo/d03/ack", str(number).encode())
    again = site.client("d03", clean=False)
    found = again.hears(10)
    fleet.leave()
    again.leave()
    return found


def speaks_wills(site: Site) -> bool:
    """The fleet hears of a device that vanished."""
    fleet = site.client("fleet")
    fleet.subscribe("fedge/v1/demo/d01/death")
    site.client("d01", will="fedge/v1/demo/d01/death").die()
    found = fleet.hears()
    fleet.leave()
    return found


def keeps_devices_apart(site: Site) -> bool:
    """A device can neither speak for another nor overhear it."""
    fleet, device = site.client("fleet"), site.client("d01")
    fleet.subscribe("fedge/v1/demo/d02/health")
    device.subscribe("fedge/v1/demo/d02/desired")
    device.publish("fedge/v1/demo/d02/health", b"forged")
    fleet.publish("fedge/v1/demo/d02/desired", b"secret")
    found = not fleet.hears() and not device.hears()
    fleet.leave()
    device.leave()
    return found


def lets_new_devices_in(site: Site) -> bool:
    """A device that enrols while the broker runs comes in, and nobody is sent away for it."""
    standing = site.client("d01")
    gone: list[object] = []
    standing.paho.on_disconnect = lambda *a: gone.append(a)
    is_out = _is_refused(site, "d09")
    standing.leave()
    return not is_out and len(gone) <= 1


def messages_per_s(site: Site) -> float:
    """QoS 1 both ways, 1 kB each, one publisher and one subscriber."""
    fleet, device = site.client("fleet"), site.client("d01")
    fleet.subscribe("fedge/v1/demo/+/anomaly")
    started = time.perf_counter()
    for _ in range(MESSAGES):
        device.paho.publish("fedge/v1/demo/d01/anomaly", PAYLOAD, 1)
    last = time.monotonic()
    while (seen := len(fleet.heard)) < MESSAGES and time.monotonic() - last < PATIENCE_S:
        time.sleep(0.01)
        if len(fleet.heard) > seen:
            last = time.monotonic()
    seconds = time.perf_counter() - started
    delivered = len(fleet.heard)
    fleet.leave()
    device.leave()
    return round(delivered / seconds)


QUESTIONS: Final[dict[str, Callable[[Site], Any]]] = {
    "refuses_strangers": refuses_strangers,
    "refuses_plain_mqtt": refuses_plain_mqtt,
    "retained": keeps_retained,
    "sessions_over_a_clients_restart": keeps_sessions,
    "wills": speaks_wills,
    "topic_rights": keeps_devices_apart,
    "devices_added_while_it_runs": lets_new_devices_in,
    "messages_per_s": messages_per_s,
}


def measure(name: str) -> dict[str, Any]:
    """Every answer of one broker."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {"broker": name}
        with running(name, folder) as site:
            for key, question in QUESTIONS.items():
                try:
                    figures[key] = question(site)
                except (PermissionError, OSError) as error:
                    figures[key] = f"failed: {error}"
            figures["memory_mb"] = _memory_mb(site)
        return figures


def main() -> None:
    """Ask each broker that was named, or all that can be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help=", ".join(COMMANDS))
    for name in parser.parse_args().brokers or [
        n for n in COMMANDS if n != "mosquitto" or mosquitto_program()
    ]:
        print(json.dumps(measure(name)), flush=True)


def _is_refused(site: Site, user: str | None) -> bool:
    try:
        site.client(user).leave()
    except PermissionError:
        return True
    return False


def _memory_mb(site: Site) -> float:
    assert site.process is not None
    lines = Path(f"/proc/{site.process.pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


if __name__ == "__main__":
    main()
