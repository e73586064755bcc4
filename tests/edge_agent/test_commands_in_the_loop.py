"""Commands of the fleet in the agent's loop: what each of them does there, and what a bundle of log and state holds."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import random
from pathlib import Path

import pytest
from agent_loop_world import World, world
from agent_world import healthy
from commands_world import BUDGET, EVENT, INTERVAL, order

from edge_agent.remote.actions import Reactivate
from edge_agent.remote.diagnosis import MAX_BUNDLE_BYTES, Diagnosis, redacted
from edge_agent.remote.log_ring import LogRing
from edge_agent.settings import load_agent_settings
from protocol.messages.commands import Command, CommandResult, Commands, Value
from protocol.messages.kinds import AgentState, CommandStatus, InstallStatus, InstallStep, Kind
from protocol.messages.payloads import Health, InstallReport

__all__ = ["world"]  # the fixture


def words(world: World, *commands: Command, counter: int = 0, **settings: Value) -> None:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    counter = counter or max(command.number for command in commands)
    world.arrive(Kind.COMMANDS, Commands(counter=counter, settings=named, outstanding=commands))


def results_of(world: World, number: int) -> list[CommandResult]:
    found = [one for one in world.said(CommandResult) if isinstance(one, CommandResult)]
    return [one for one in found if one.number == number]


def test_a_commissioning_from_afar_watches_on_and_is_done_when_the_new_scale_is_in_force(
    world: World,
) -> None:
    world.watch(healthy(150))
    words(world, order(5))
    world.watch(healthy(30, 2) * 1.5)
    (begun,) = results_of(world, 5)
    assert (begun.status, world.status().health.state) == (CommandStatus.IN_PROGRESS, AgentState.WATCHING)
    assert world.vitals.last_score is not None
    words(world, order(6), order(7, afresh=True), order(8, "recommission", colour="red"))
    world.watch(healthy(400, 3) * 1.5)
    assert [(r.status, r.code) for number in (6, 7, 8) for r in results_of(world, number)] == [
        (CommandStatus.REFUSED, "under-way"),
        (CommandStatus.REFUSED, "under-way"),
        (CommandStatus.REFUSED, "under-way"),
    ]
    done = results_of(world, 5)[-1]
    assert done.status is CommandStatus.DONE
    assert "windows is in force" in done.reason
    words(world, order(9, afresh=True), order(10, colour="red"))
    world.watch(healthy(4))
    (forbidden,), (unknown,) = results_of(world, 9), results_of(world, 10)
    assert (forbidden.code, unknown.code) == ("forbidden", "unknown")
    assert "pooled" in forbidden.reason
    assert "'colour'" in unknown.reason


def test_health_says_what_was_obeyed_and_which_settings_are_not_the_default(world: World) -> None:
    world.watch(healthy(100))
    words(
        world, counter=9, health__every_s=20.0, detection__budget__alarms_per_1000_windows=2.0, colour="red"
    )
    world.watch(healthy(120))
    health = [one for one in world.said(Health) if isinstance(one, Health)][-1]
    assert health.obeyed == 9
    assert {one.name: (one.value, one.source.value, bool(one.refused)) for one in health.settings} == {
        BUDGET: (2.0, "fleet", False),
        INTERVAL: (20.0, "fleet", False),
        "colour": (None, "default", True),
    }
    assert [one.name for one in world.status().settings] == [BUDGET, EVENT, INTERVAL, "colour"]
    said_at = len(world.said(Health))
    world.watch(healthy(150))
    assert len(world.said(Health)) == said_at, "15 s later, and not 10"


def bundle_of(result: CommandResult) -> dict[str, object]:
    content = gzip.decompress(base64.b64decode(result.report))
    found: dict[str, object] = json.loads(content)
    return found


def test_a_bundle_holds_what_a_person_would_look_at_and_neither_secret_nor_window(world: World) -> None:
    logger = logging.getLogger("edge_agent.test")
    logger.addHandler(world.ring)
    world.watch(healthy(100))
    for line in (
        "GET https://eve:hunter2@example.org/ failed",
        "Authorization: Bearer abc.def.ghi",
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----",
        "token=t0ps3cret",
        "a plain line",
    ):
        logger.warning(line)
    (world.paths.status.parent / "install.json").write_text(
        json.dumps({"rows": [0.25] * 500, "step": "IDLE"})
    )
    words(world, order(5, "diagnose"))
    world.watch(healthy(4))
    logger.removeHandler(world.ring)
    (result,) = results_of(world, 5)
    bundle = bundle_of(result)
    text = json.dumps(bundle)
    for secret in ("hunter2", "abc.def.ghi", "MIGHAgEA", "t0ps3cret"):
        assert secret not in text
    assert "a plain line" in text
    assert bundle["install"] == {"rows": "(left out: 500 values)", "step": "IDLE"}
    assert set(bundle) >= {"versions", "settings", "status", "disk", "memory", "log", "cut"}
    assert bundle["status"]["health"]["windows"] >= 90  # type: ignore[index] # JSON


def test_a_bundle_fits_one_message_whatever_the_log_says_and_tells_what_was_cut(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'state_dir = "."\ntenant = "t"\nfamily = "f"\nhardware = "h"\n[trust]\nroot = "r"\n[source]\nkind = "simulated"\n'
    )
    ring = LogRing(maximum_chars=1 << 20)
    noise = random.Random(1)
    for number in range(3000):
        line = " ".join(base64.b64encode(noise.randbytes(36)).decode() for _ in range(8))
        ring.handle(logging.LogRecord("a", 30, "", 0, f"{number} {line}", None, None))
    assert ring.dropped > 0
    content, cut = Diagnosis(load_agent_settings(tmp_path / "agent.toml"), ring).bundle()
    assert len(content) <= MAX_BUNDLE_BYTES
    found = json.loads(gzip.decompress(content))
    assert found["cut"] == cut
    assert found["log"][-1].endswith(line), "the newest lines stay"
    assert any("log lines" in part for part in cut)
    assert "FileNotFoundError" not in json.dumps(found["status"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"password": "x", "claim_token_file": "/a"}, {"password": "(left out)", "claim_token_file": "/a"}),
        ({"options": {"api_key": "x", "pin": 3}}, {"options": {"api_key": "(left out)", "pin": 3}}),
        ([[1.0] * 30], ["(left out: 30 values)"]),
        ([{"a": 1}] * 2, [{"a": 1}] * 2),
        ("mqtts://u:p@h:1", "mqtts://(left out)h:1"),
        (None, None),
    ],
)
def test_what_looks_like_a_secret_or_a_window_is_left_out(value: object, expected: object) -> None:
    assert redacted(value) == expected


class Sham:
    """An installer that reactivates when a test says so."""

    def __init__(self) -> None:
        self.refusal, self.asked, self.now = "", [], InstallStep.IDLE
        self.report: InstallReport | None = None

    def reactivate(self, execution: str) -> str:
        self.asked.append(execution)
        return self.refusal

    def outcome(self, execution: str) -> InstallReport | None:
        return self.report if execution in self.asked else None

    def step(self) -> InstallStep:
        return self.now


@pytest.mark.parametrize(
    ("status", "step", "expected"),
    [
        (InstallStatus.SUCCEEDED, InstallStep.COMMITTED, CommandStatus.DONE),
        (InstallStatus.FAILED, InstallStep.ROLLED_BACK, CommandStatus.FAILED),
    ],
)
def test_a_sham_activation_ends_as_the_installer_says(
    status: InstallStatus, step: InstallStep, expected: CommandStatus
) -> None:
    sham = Sham()
    action = Reactivate(sham, monotonic=lambda: 0.0)
    assert action.begin(order(5)).status is CommandStatus.IN_PROGRESS
    assert sham.asked == ["command-5"]
    assert action.look(order(5)).status is CommandStatus.IN_PROGRESS
    sham.report = InstallReport(
        execution="command-5", release="pump/1", counter=1, step=step, status=status, reason="why"
    )
    assert (action.look(order(5)).status, action.look(order(5)).reason) == (expected, f"{step.value} why")


def test_a_sham_activation_that_cannot_begin_or_was_cut_off_says_so() -> None:
    sham, now = Sham(), [0.0]
    action = Reactivate(sham, monotonic=lambda: now[0])
    sham.refusal = "pump/2 is being installed"
    refused = action.begin(order(5))
    assert (refused.code, refused.reason) == ("not-ready", "pump/2 is being installed")
    sham.refusal, sham.now = "", InstallStep.TRIAL
    action.begin(order(6))
    for now[0] in (0.0, 1e4):
        assert action.look(order(6)).status is CommandStatus.IN_PROGRESS, "a trial waits for windows"
    sham.now = InstallStep.IDLE
    assert action.look(order(6)).status is CommandStatus.IN_PROGRESS
    now[0] += 61.0
    assert action.look(order(6)).status is CommandStatus.INTERRUPTED
