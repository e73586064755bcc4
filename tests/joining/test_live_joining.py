"""Devices whose machines are on a wire join like any other, and watch: lines on standard input, OPC UA, Modbus, MQTT topics."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import agent_world
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from free_ports import free_port
from join_world import Joining, JoinSite, join_site
from modbus_server import modbus_device
from mosquitto_broker import MosquittoBroker
from opcua_server import OpcUaServer
from paho.mqtt.enums import CallbackAPIVersion
from pymodbus.client import ModbusTcpClient
from waiting import wait_until

from fleet.plant import agent_requirements

pytestmark = pytest.mark.long
NAMES = agent_world.NAMES
LINES = (
    "import random, sys, time\n"
    "print(','.join(sys.argv[1:]), flush=True)\n"
    "while True:\n"
    "    print(','.join(f'{random.gauss(0, 1):.4f}' for _ in sys.argv[1:]), flush=True)\n"
    "    time.sleep(0.02)\n"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinSite]:
    with (
        patch.object(agent_requirements, "write_agent_requirements", lambda *_: False),
        join_site(tmp_path_factory.mktemp("site") / "plant") as made,
    ):
        yield made


@contextmanager
def repeated(work: Callable[[], object]) -> Iterator[None]:
    """Done again and again, until the block ends."""
    ending = threading.Event()

    def loop() -> None:
        while not ending.wait(0.05):
            work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def live(kind: str, folder: Path, stack: ExitStack) -> tuple[str, int | None]:
    """A real server whose values move; returns the word for ``--source``, and what is on standard input."""
    draw = np.random.default_rng(3)
    port = free_port()
    quick = "every_s = 0.05\n"
    if kind == "lines":
        sender = subprocess.Popen([sys.executable, "-c", LINES, *NAMES], stdout=subprocess.PIPE)
        stack.callback(sender.wait)
        stack.callback(sender.kill)
        assert sender.stdout is not None
        return "-", sender.stdout.fileno()
    if kind == "opcua":
        server = stack.enter_context(OpcUaServer(port, dict.fromkeys(NAMES, 0.0)))
        stack.enter_context(repeated(lambda: [server.set(name, float(draw.normal())) for name in NAMES]))
        nodes = toml({name: f"ns=2;s={name}" for name in NAMES})
        table = f'kind = "opcua"\nurl = "{server.url}"\n{quick}nodes = {nodes}\n'
    elif kind == "modbus":
        stack.enter_context(modbus_device(port, holding=[0] * len(NAMES)))
        writer = ModbusTcpClient("127.0.0.1", port=port)
        stack.callback(writer.close)
        assert writer.connect()
        stack.enter_context(
            repeated(
                lambda: writer.write_registers(0, [int(value) for value in draw.integers(0, 99, len(NAMES))])
            )
        )
        registers = "".join(
            f'[[source.registers]]\nname = "{name}"\naddress = {place}\n' for place, name in enumerate(NAMES)
        )
        table = f'kind = "modbus"\nurl = "modbus://127.0.0.1:{port}"\n{quick}{registers}'
    else:
        broker = stack.enter_context(MosquittoBroker(folder))
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.tls_set_context(broker.client_tls())
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        stack.callback(client.loop_stop)
        stack.enter_context(
            repeated(lambda: [client.publish(f"line/{name}", f"{draw.normal():.4f}") for name in NAMES])
        )
        topics = toml({name: f"line/{name}" for name in NAMES})
        table = (
            f'kind = "mqtt"\nurl = "{broker.url}"\nca_file = "{broker.ca_file}"\n{quick}topics = {topics}\n'
        )
    (folder / "plc.toml").write_text(f"[source]\n{table}")
    return str(folder / "plc.toml"), subprocess.DEVNULL


def toml(table: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{key}" = "{value}"' for key, value in table.items()) + "}"


@pytest.mark.parametrize("kind", ["lines", "opcua", "modbus", "mqtt"])
def test_a_machine_on_a_wire_is_watched(site: JoinSite, tmp_path: Path, kind: str) -> None:
    device = f"pump-{kind}"
    assert site.add(device).returncode == 0
    with ExitStack() as stack:
        word, stdin = live(kind, tmp_path, stack)
        words = (
            str(site.plant.join_file(device)),
            "--source",
            word,
            "--state",
            str(tmp_path / device),
            "--foreground",
        )
        joined = stack.enter_context(Joining(tmp_path / "said", *words, stdin=stdin))
        joined.says(f"enrolled as device {device}")
        site.roll_out()
        joined.says(f"watching: {device} with release pump/1")
        status = tmp_path / device / "state" / "status.json"
        seen = json.loads(status.read_text())["health"]["windows"]
        wait_until(lambda: json.loads(status.read_text())["health"]["windows"] > seen + 20, "more windows")
        assert not json.loads(status.read_text())["health"].get("missing")
