"""Commands and settings from the command line to a device and back: a real agent, a real Mosquitto, a real fleet service.

The agent is killed in the middle of a command, the fleet is away when a result comes, old words are replayed by whoever owns
the broker; each command is done once.
"""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_process_world import broker
from agent_world import DEVICE, faulty, healthy, make_bundle, running_agent, status_of, write_device
from command_line import run_command
from free_ports import free_port
from mosquitto_broker import MosquittoBroker
from secret_file import secret_file
from site_world import Site
from waiting import wait_until

from protocol.messages.commands import Command, Commands

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.long

BUDGET = "detection.budget.alarms_per_1000_windows"
EXTRA = f'[outbox]\nresend_s = 1.0\n[remote]\nsettings = ["{BUDGET}"]\n'


class CommandedSite(Site):
    """A machine that runs through chosen rows, and a person at the fleet's command line."""

    def __init__(self, folder: Path, broker: MosquittoBroker) -> None:
        self.port = free_port()
        agent = write_device(
            folder / "device",
            rows=np.concatenate([healthy(400), faulty(100)]),
            speed=50.0,
            mqtt_url=broker.url,
            mqtt_ca=broker.ca_file,
            connection=broker.certificates.connection(DEVICE),
            bundle=make_bundle(),
            extra=EXTRA,
        )
        super().__init__(folder, broker, agent, port=self.port)
        self.machine([0, 400])
        secret_file(folder / "admin.token", self.token("admin"))

    def machine(self, rows: list[int]) -> None:
        """Which rows the machine runs through."""
        (self.agent.parent / "machine.json").write_text(json.dumps({"rows": rows, "loop": True}))

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

    def times_in_log(self, words: str) -> int:
        return self.log_of_agent().count(words)


@pytest.fixture
def site(tmp_path: Path, broker: MosquittoBroker) -> CommandedSite:
    broker.start()
    return CommandedSite(tmp_path, broker)


def is_watching(site: CommandedSite) -> bool:
    status = status_of(site.agent)
    return bool(status.get("commissioned") and status.get("broker_connected"))


def set_aside(site: CommandedSite) -> int:
    health = status_of(site.agent).get("health")
    return int(health["set_aside_windows"]) if isinstance(health, dict) else 0


def test_each_command_is_done_once_over_kills_replays_and_a_fleet_that_is_away(site: CommandedSite) -> None:
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
        assert "PRIVATE KEY" not in json.dumps(bundle)

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
