"""`fedge-agent` as people and programs call it: what it answers, what it says of a process, and wrong use in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from agent_process_world import alarming_device, broker
from agent_world import DEVICE, ROOT, health_of_status, running_agent, status_of
from command_line import run_command
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from edge_agent.version import AGENT_VERSION

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_answer_people_and_programs(tmp_path: Path, broker: MosquittoBroker) -> None:
    config = alarming_device(tmp_path, broker)
    assert (
        "is fine: family pump, 6 features"
        in run_command("edge_agent", "check-config", "--config", str(config)).stdout
    )
    before = run_command("edge_agent", "status", "--config", str(config))
    assert (before.returncode, "has the agent been started" in before.stderr) == (2, True)
    with running_agent(config):
        wait_until(lambda: health_of_status(config).get("windows", 0) > 70, "some windows")  # type: ignore[operator] # a number
        told = run_command("edge_agent", "status", "--config", str(config), "--json")
        assert told.returncode == 0
        found = json.loads(told.stdout)
        assert (found["running"], found["device"], found["health"]["release"]) == (True, DEVICE, "pump/1")
        assert found["process"] == "runs"
        shown = run_command("edge_agent", "status", "--config", str(config))
        assert shown.returncode == 0
        assert "pump/1" in shown.stdout
        second = command("run", "--config", str(config))
        assert second.returncode == 2
        assert "in use by another agent" in second.stderr
        assert "Traceback" not in second.stderr


def test_status_looks_at_the_process_and_not_at_a_date(tmp_path: Path, broker: MosquittoBroker) -> None:
    config = alarming_device(tmp_path, broker)
    status_file = tmp_path / "state" / "status.json"

    def status(**changes: float) -> tuple[int, str]:
        if changes:
            status_file.write_text(json.dumps(status_of(config) | changes))
        done = run_command("edge_agent", "status", "--config", str(config))
        return done.returncode, done.stdout

    with running_agent(config) as agent:
        wait_until(lambda: health_of_status(config).get("windows", 0) > 0, "a window")  # type: ignore[operator] # a number
        agent.send_signal(signal.SIGSTOP)
        assert status(written_at_s=0.0)[0] == 0, "whatever date it is"
        written = status_of(config)["written_boot_s"]
        assert isinstance(written, float)
        code, told = status(written_boot_s=written - 60)
        assert (code, "hangs: process" in told) == (3, True)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        code, told = status(written_boot_s=written)
        assert (code, "not running" in told) == (1, True), "at once"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--config", "/nowhere/agent.toml"), "cannot read /nowhere/agent.toml"),
        (("status",), "Missing option '--config'"),
        (("fly",), "No such command 'fly'"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(words: tuple[str, ...], expected: str) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ("state/enrolment.json", "run `fedge-agent enrol"),
        ("root.json", "trust.root"),
        ("rows.npz", "rows.npz"),
    ],
)
def test_a_device_that_is_not_set_up_is_told_what_is_missing(
    tmp_path: Path, broker: MosquittoBroker, spoil: str, expected: str
) -> None:
    config = alarming_device(tmp_path, broker)
    (tmp_path / spoil).unlink()
    done = command("run", "--config", str(config))
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_of_the_configuration_says_that_the_aggregators_key_is_missing_and_how_to_get_it(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = alarming_device(tmp_path, broker, '[flower]\nca_file = "ca.pem"\n')
    done = run_command("edge_agent", "check-config", "--config", str(config))
    assert done.returncode == 2
    assert "no aggregator_key" in done.stderr
    assert "run `fedge-aggregator identity` where the aggregator runs" in done.stderr


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            'module = "/nowhere/chip.so"\npin_file = "pin"\n',
            "[identity] module /nowhere/chip.so is not there",
        ),
        ('module = "agent.toml"\npin_file = "none"\n', "write the token's user PIN into it"),
    ],
)
def test_a_check_of_the_configuration_names_what_a_chip_lacks(
    tmp_path: Path, broker: MosquittoBroker, table: str, expected: str
) -> None:
    config = alarming_device(tmp_path, broker, f'[identity]\ntoken = "fedge"\n{table}')
    done = run_command("edge_agent", "check-config", "--config", str(config))
    assert done.returncode == 2
    assert expected in done.stderr


def test_the_resident_process_imports_nothing_for_people() -> None:
    heavy = (
        "typer",
        "rich",
        "httpx",
        "asyncio",
        "click",
        "flwr",
        "tensorflow",
        "pydantic",
        "requests",
        "pkcs11",
        "asyncua",
        "pymodbus",
        "edge_agent.sources.opcua",
        "edge_agent.sources.modbus",
        "edge_agent.sources.topics",
        "edge_agent.sources.lines",
    )
    script = f"import sys, edge_agent.app\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_distribution() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["version"] == AGENT_VERSION
