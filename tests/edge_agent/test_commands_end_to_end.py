"""Commands and settings from the command line to a device and back: a real agent, a real Mosquitto, a real fleet service.

The agent is killed in the middle of a command, the fleet is away when a result comes, old words are replayed by whoever owns
the broker; each command is done once.
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from agent_broker import FLEET_PASSWORD, agents_broker
from agent_world import DEVICE, TENANT, faulty, healthy, make_bundle, running_agent, status_of, write_device
from command_line import run_command
from free_ports import free_port
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

from edge_agent.enrolled import load_device_key
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.device_tables import Device
from protocol.identity import fingerprint, public_key_pem
from protocol.messages.commands import Command, Commands
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import Kind
from protocol.topics import device_topic

pytestmark = pytest.mark.long

BUDGET = "detection.budget.alarms_per_1000_windows"
EXTRA = f'[outbox]\nresend_s = 1.0\n[remote]\nsettings = ["{BUDGET}"]\n'


class Site:
    """A folder with a broker, a fleet beside it and a device that both know."""

    def __init__(self, folder: Path, broker: MosquittoBroker) -> None:
        self.broker, self.folder, self.log = broker, folder, folder / "fleet.log"
        self.agent = write_device(
            folder / "device",
            rows=np.concatenate([healthy(400), faulty(100)]),
            speed=50.0,
            mqtt_url=broker.url,
            mqtt_ca=broker.ca_file,
            bundle=make_bundle(),
            extra=EXTRA,
        )
        self.machine([0, 400])
        (folder / "fleet.password").write_text(f"{FLEET_PASSWORD}\n")
        self.config, self.port = folder / "fleet.toml", free_port()
        self.config.write_text(
            f'listen = "127.0.0.1:{self.port}"\ndata_dir = "data"\ntenant = "{TENANT}"\n'
            'release_keys = ["device/release.pub.pem"]\n'
            f'[mqtt]\nurl = "{broker.url}"\nca_file = "{broker.ca_file}"\npassword_file = "fleet.password"\n'
            'accounts = "none"\nreconnect_s = 0.1\n'
        )
        self._enrol()
        token = run_command(
            "fleet", "tokens", "create", "--role", "admin", "--name", "a", "--config", str(self.config)
        )
        (folder / "admin.token").write_text(token.stdout.split()[-1])

    def _enrol(self) -> None:
        settings = load_fleet_settings(self.config)
        database = open_storage(settings.effective_database_url)
        key = load_device_key(self.agent.parent / "state" / "device.key").public_key()
        with database.write() as session:
            session.add(
                Device(
                    id=DEVICE,
                    fingerprint=fingerprint(key),
                    public_key=public_key_pem(key).decode(),
                    hardware="rpi4",
                    family="pump",
                    labels={},
                    enrolled_at=0.0,
                    broker_password_hash="-",
                )
            )
        database.close()

    def machine(self, rows: list[int]) -> None:
        """Which rows the machine runs through."""
        (self.agent.parent / "machine.json").write_text(json.dumps({"rows": rows, "loop": True}))

    @contextmanager
    def fleet(self) -> Iterator[None]:
        with self.log.open("ab") as log:
            start = self.log.stat().st_size
            child = subprocess.Popen(
                [sys.executable, "-m", "fleet", "serve", "--config", str(self.config)], stdout=log, stderr=log
            )
        try:
            wait_until(
                lambda: '"listening"' in self.log.read_text()[start:],
                "the fleet to listen",
                unless=lambda: died(child, self.log),
            )
            yield
        finally:
            child.kill()
            child.wait()

    def run(self, *words: str) -> str:
        """``fedge-fleet devices …`` as an admin."""
        url, token = f"http://127.0.0.1:{self.port}", str(self.folder / "admin.token")
        done = run_command("fleet", "devices", *words, "--url", url, "--token-file", token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def ended(self, number: int) -> Callable[[], dict[str, Any] | None]:
        """The command once it is over; for `wait_until`."""

        def found() -> dict[str, Any] | None:
            (one,) = [one for one in self.ask("commands", DEVICE) if one["number"] == number]
            return one if one["status"] not in {"WAITING", "IN_PROGRESS"} else None

        return found

    def say_as_the_broker(self, word: Commands) -> None:
        """A retained word that is not the fleet's."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="eve")
        client.tls_set_context(self.broker.client_tls())
        client.username_pw_set("fleet", FLEET_PASSWORD)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        event = Event(source="fleet", boot_id="eve", sequence=1, time=1.8e9, data=word)
        client.publish(
            device_topic(TENANT, DEVICE, Kind.COMMANDS), encode(event), qos=1, retain=True
        ).wait_for_publish()
        client.disconnect()
        client.loop_stop()

    def times_in_log(self, words: str) -> int:
        return (self.agent.parent / "agent.log").read_text().count(words)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    broker = agents_broker(tmp_path)
    broker.start()
    yield Site(tmp_path, broker)
    broker.stop()


def is_watching(site: Site) -> bool:
    status = status_of(site.agent)
    return bool(status.get("commissioned") and status.get("broker_connected"))


def set_aside(site: Site) -> int:
    health = status_of(site.agent).get("health")
    return int(health["set_aside_windows"]) if isinstance(health, dict) else 0


def test_each_command_is_done_once_over_kills_replays_and_a_fleet_that_is_away(site: Site) -> None:
    with site.fleet(), running_agent(site.agent):
        wait_until(lambda: is_watching(site), "the device to watch")

        # What a person calls normal, as the verb that people know and as a command beside the others.
        site.machine([400, 500])
        wait_until(lambda: set_aside(site) > 20, "windows of an alarm")
        site.machine([0, 400])
        wait_until(lambda: not status_of(site.agent)["alarm_open"], "its end")
        site.run("accept-normal", DEVICE)
        (accept,) = site.ask("commands", DEVICE)
        assert accept["action"] == "accept-as-normal"
        done = wait_until(site.ended(accept["number"]), "the acceptance")
        assert done["status"] == "DONE"
        learnt, _, words = done["reason"].partition(" ")
        assert (int(learnt) > 20, words) == (True, "windows may be learnt")

        # A bundle into a file; what is in it, and what is not.
        file = site.folder / "bundle.json.gz"
        assert str(file) in site.run("diagnose", DEVICE, "--output", str(file))
        bundle = json.loads(gzip.decompress(file.read_bytes()))
        assert bundle["status"]["device"] == DEVICE
        assert any("command_begun" in line for line in bundle["log"])
        assert FLEET_PASSWORD not in json.dumps(bundle)
        assert "made-up-for-tests" not in json.dumps(bundle)

        # Settings: one is obeyed without a restart, one the owner keeps, and both are said.
        site.run("settings", DEVICE, "--set", f"{BUDGET}=0.5", "--set", "health.every_s=20")
        told = wait_until(
            lambda: (found := site.ask("settings", DEVICE))["is_obeyed"] and found["in_force"] and found,
            "the settings to be in force",
        )
        assert told["in_force"][BUDGET] == {"value": 0.5, "source": "fleet", "refused": ""}
        assert told["in_force"]["health.every_s"]["source"] == "file"
        assert "agent.toml keeps it" in told["in_force"]["health.every_s"]["refused"]

        sham = site.ask("command", "reactivate", DEVICE)[0]["number"]
        done = wait_until(site.ended(sham), "the running release to be committed again")
        assert (done["status"], done["reason"]) == ("DONE", "COMMITTED")
        parked = site.ask("command", "retry-parked", DEVICE)[0]["number"]
        assert wait_until(site.ended(parked), "parked events, of which there are none")["status"] == "DONE"

    with site.fleet(), running_agent(site.agent) as agent:
        wait_until(lambda: is_watching(site), "the device to watch again")
        assert {one["name"]: one["value"] for one in status_of(site.agent)["settings"]}[BUDGET] == 0.5  # type: ignore[attr-defined] # JSON
        number = site.ask("command", "recommission", DEVICE)[0]["number"]
        wait_until(
            lambda: site.times_in_log(f"command_in_progress number={number}") == 1,
            "the commissioning to begin",
        )
        agent.send_signal(signal.SIGKILL)  # in the middle of it
        agent.wait()
    # The fleet is away when it ends.
    with running_agent(site.agent):
        wait_until(lambda: site.times_in_log(f"command_done number={number}") == 1, "the new scale")
        old = Commands(
            counter=accept["number"],
            outstanding=(Command(number=accept["number"], action="diagnose", expires_at=4e9),),
        )
        site.say_as_the_broker(old)
        with site.fleet():
            done = wait_until(site.ended(number), "its result, late")
            assert (done["status"], "is in force" in done["reason"]) == ("DONE", True)
            after = site.ask("command", "diagnose", DEVICE)[0]["number"]
            assert wait_until(site.ended(after), "a command after the replay")["status"] == "DONE"
            listed = site.ask("commands", DEVICE)
    assert [one["status"] for one in listed] == ["DONE"] * 6
    assert site.times_in_log("commissioning_restarted") == 1
    for one in listed:
        assert site.times_in_log(f"command_begun number={one['number']} ") <= 1
    assert site.times_in_log("Traceback") == 0
