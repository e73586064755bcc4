"""The parts of joining that need no fleet: words for a source, progress, the unit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import agent_world
import msgspec
import numpy as np
import pytest
import trustme
from join_world import write_recording

from edge_agent.errors import SourceError
from edge_agent.joining import unit
from edge_agent.joining.folder import JoinedFolder
from edge_agent.joining.progress import progress_of
from edge_agent.joining.source_words import source_tables
from edge_agent.joining.unit import Systemd, hindrance, unit_text
from edge_agent.settings import DetectionSettings, load_agent_settings
from edge_agent.sources.factory import open_source
from edge_agent.status import Status
from models.features import raw_spec, vibration_spec
from protocol.join_file import JoinFile
from protocol.messages.kinds import AgentState, InstallStep
from protocol.messages.payloads import Health
from runtime.errors import SettingsError

ROOT = Path(__file__).parents[2]
JOIN = JoinFile(
    tenant="acme",
    device="pump-1",
    family="pump",
    fleet_url="https://plant:8443",
    broker_url="mqtts://plant:8883",
    ca=trustme.CA().cert_pem.bytes().decode(),
    root="{}",
    claim="fc_x",
    claim_ends_s=2e9,
    features=agent_world.SPEC,
)
RAW = msgspec.structs.replace(JOIN, features=raw_spec(("a", "b"), 64, sample_rate_hz=4.0))


def table_of(words: str, join: JoinFile = JOIN, **more: object) -> dict[str, object]:
    given = {"answers": {}, "machine": None, "speed": None, "ca_file": "ca.pem", **more}
    return source_tables(words, join, **given)["source"]  # type: ignore[arg-type] # what a test gives


def opened(table: dict[str, object], folder: Path, join: JoinFile = JOIN) -> tuple[str, ...]:
    """The table in an agent.toml, read by the agent, and opened; returns its sensors."""
    made = JoinedFolder(path=folder / "device")
    made.pin(join)
    made.write_config(join, {"source": table}, "rpi4")
    source = open_source(load_agent_settings(made.config).source)
    source.close()
    return source.spec.names


def test_each_form_of_a_source_is_a_table_that_the_agent_takes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for number, words in enumerate(
        ("-", str(tmp_path / "pipe"), "opc.tcp://plc:4840/x?ns=3", "mqtts://broker/line3", "mqtt://127.0.0.1")
    ):
        assert opened(table_of(words), tmp_path / str(number)) == agent_world.NAMES
    assert table_of("opc.tcp://plc:4840/x?ns=3")["nodes"] == {
        name: f"ns=3;s={name}" for name in agent_world.NAMES
    }
    assert table_of("mqtts://broker/line3")["topics"] == {name: f"line3/{name}" for name in agent_world.NAMES}
    assert opened(table_of("simulated"), tmp_path / "s", msgspec.structs.replace(JOIN, features=None))
    assert table_of("my_sensors:make") == {"kind": "plugin", "factory": "my_sensors:make"}


def test_a_raw_family_gives_its_rate_and_its_windows() -> None:
    table = table_of("-", RAW)
    assert (table["every_s"], table["window_rows"], table["columns"]) == (0.25, 64, ["a", "b"])


def test_a_recording_is_played_by_the_rate_that_it_has(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "rec.csv")
    table = table_of(str(recording))
    assert table["row_every_s"] == 1.0
    assert table["speed"] == 6.0, "120 windows in 20 s"
    assert opened(table, tmp_path) == agent_world.NAMES
    assert table_of(str(recording), speed=1.0)["speed"] == 1.0
    fast = msgspec.structs.replace(JOIN, features=raw_spec(agent_world.NAMES, 8, sample_rate_hz=50.0))
    with pytest.raises(SettingsError, match="has 1 rows a second, and family pump was made for 50"):
        table_of(str(recording), fast)


def test_a_waveform_becomes_the_windows_of_a_vibration_family_and_none_over_a_gap(tmp_path: Path) -> None:
    rate = 12_800
    signal = np.random.default_rng(1).normal(size=(5 * 2048 + 100, 1))
    np.savez(tmp_path / "rec.npz", acceleration=signal, sample_rate=rate)
    join = msgspec.structs.replace(JOIN, features=vibration_spec(rate, 2048))
    table = table_of(str(tmp_path / "rec.npz"), join)
    assert (table["is_vibration"], table["window_rows"], table["row_every_s"]) == (True, 2048, 1 / rate)
    assert opened(table, tmp_path, join) == join.features.names if join.features else ()
    two = msgspec.structs.replace(JOIN, features=vibration_spec(rate, 2048, 2))
    with pytest.raises(SettingsError, match="family pump takes 2 of acceleration"):
        table_of(str(tmp_path / "rec.npz"), two)


def test_a_short_recording_is_commissioned_on_as_the_study_does_it(tmp_path: Path) -> None:
    given: dict[str, Any] = {"answers": {}, "machine": None, "speed": None, "ca_file": "ca.pem"}
    short = source_tables(str(write_recording(tmp_path / "short.csv", 200)), JOIN, **given)["detection"]
    assert short == {
        "commissioning_windows": 80,
        "commissioning_longest_windows": 80,
        "reference_windows": 80,
    }
    assert source_tables(str(write_recording(tmp_path / "long.csv", 2000)), JOIN, **given)["detection"] == {}


@pytest.mark.parametrize(
    ("words", "join", "told"),
    [
        ("nowhere.csv", JOIN, "there is no such file; give a recording"),
        ("modbus://plc", JOIN, r"write a \[source\] table with \[\[source.registers\]\]"),
        ("opc.tcp://plc?ns=x", JOIN, "ns is a number"),
        ("-", msgspec.structs.replace(JOIN, features=None), "has no release yet"),
        ("-", msgspec.structs.replace(JOIN, features=vibration_spec(12_800.0, 2048)), "a driver of your own"),
    ],
)
def test_what_is_no_source_is_told_with_what_would_be(words: str, join: JoinFile, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        table_of(words, join)


def test_a_table_in_a_file_is_taken_with_its_paths_and_a_typo_is_named(tmp_path: Path) -> None:
    (tmp_path / "plc.toml").write_text(
        '[source]\nkind = "modbus"\nurl = "modbus://plc"\n[[source.registers]]\nname = "a"\naddress = 3\n'
    )
    table = table_of(str(tmp_path / "plc.toml"))
    assert opened(table, tmp_path, msgspec.structs.replace(JOIN, features=None)) == ("a",)
    (tmp_path / "mqtt.toml").write_text(
        '[source]\nkind = "mqtt"\nurl = "mqtts://b"\nca_file = "own.pem"\ntopics = { a = "x" }\n'
    )
    assert table_of(str(tmp_path / "mqtt.toml"))["ca_file"] == str(tmp_path / "own.pem")
    with pytest.raises(SourceError, match=r"own\.pem"):
        opened(table_of(str(tmp_path / "mqtt.toml")), tmp_path / "b")
    (tmp_path / "bad.toml").write_text('[source]\nkind = "mqtt"\nurll = "x"\n')
    with pytest.raises(SettingsError, match="urll"):
        table_of(str(tmp_path / "bad.toml"))


def status_of(state: AgentState, **more: object) -> Status:
    health = {k: v for k, v in more.items() if k in {"commissioned_share", "install_step", "windows"}}
    rest = {k: v for k, v in more.items() if k not in health}
    return Status(
        device="pump-1",
        tenant="acme",
        family="pump",
        pid=1,
        boot_id="b",
        agent_version="1",
        started_at_s=0,
        written_at_s=0,
        health=Health(state=state, release="pump/1", uptime_s=1.0, **health),  # type: ignore[arg-type]
        **rest,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (status_of(AgentState.STARTING), "the agent starts"),
        (
            status_of(AgentState.STARTING, problems=("no windows come: nobody listens there",)),
            "no window yet: no windows come: nobody listens there",
        ),
        (
            status_of(AgentState.WAITING_FOR_RELEASE, broker_connected=True),
            "waits for a release of family pump (fedge rollouts)",
        ),
        (
            status_of(AgentState.WAITING_FOR_RELEASE, install_step=InstallStep.PROBING),
            "installs a release: probing",
        ),
        (
            status_of(
                AgentState.WAITING_FOR_RELEASE,
                install_step=InstallStep.REJECTED,
                windows=3,
                problems=("other columns",),
            ),
            "a release was not installed: other columns",
        ),
        (
            status_of(AgentState.COMMISSIONING, commissioned_share=0.45),
            "watching, and learning what is normal for pump-1: 60 of 120 windows, 10 min until it can alarm",
        ),
        (
            status_of(AgentState.COMMISSIONING, commissioned_share=0.95),
            "watching, and learning what is normal for pump-1: 120 windows and more, until its scale has settled or 480 are seen",
        ),
        (
            status_of(AgentState.WATCHING, last_score=0.25, threshold=4.0),
            "watching: pump-1 with release pump/1; last score 0.25, alarm above 4",
        ),
        (status_of(AgentState.BLIND, problems=("no sensor",)), "blind: no sensor"),
    ],
)
def test_what_the_agent_does_is_said_in_a_line(status: Status, words: str) -> None:
    assert progress_of(status, DetectionSettings(), 10.0).words == words


def settings_in(text: str) -> set[str]:
    """The lines of a unit that do not depend on where things lie."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "["))]
    return {
        line
        for line in lines
        if not re.match(r"Description|ExecStart|ReadWritePaths|StateDirectory|SupplementaryGroups", line)
    }


def test_the_unit_is_that_of_deploy_with_the_devices_folder_in_it() -> None:
    folder = JoinedFolder(path=Path("/var/lib/fedge/pump-1"))
    text = unit_text(folder, "pump-1")
    assert settings_in(text) == settings_in((ROOT / "deploy/systemd/fedge-agent.service").read_text())
    assert "ReadWritePaths=/var/lib/fedge/pump-1\n" in text
    assert "-m edge_agent run --config /var/lib/fedge/pump-1/agent.toml\n" in text


@pytest.mark.long
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: sudo apt-get install systemd")
    file = tmp_path / "fedge-agent-pump-1.service"
    file.write_text(unit_text(JoinedFolder(path=Path("/var/lib/fedge/pump-1")), "pump-1"))
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_that_could_not_see_its_files_is_not_made(tmp_path: Path) -> None:
    open_folder = JoinedFolder(path=Path("/var/lib/fedge/pump-1"))
    assert hindrance(open_folder, Path("/usr/bin/env")) == ""
    assert "below /run/user" in hindrance(open_folder, Path("/run/user/1000/venv/bin/python"))
    assert "below /home" in hindrance(JoinedFolder(path=Path("/home/me/pump-1")), Path("/usr/bin/env"))
    assert "holds a blank" in hindrance(JoinedFolder(path=Path("/var/lib/my pump")), Path("/usr/bin/env"))


def test_a_unit_is_written_enabled_and_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(unit, "_do", lambda *words: done.append(words))
    monkeypatch.setattr(unit, "USER", "nobody")
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    folder = JoinedFolder(path=tmp_path / "pump-1")
    folder.pin(JOIN)
    systemd = Systemd(running=tmp_path, units=tmp_path)
    assert systemd.is_there == (os.geteuid() == 0)
    name = systemd.install(folder, "pump-1")
    assert (tmp_path / name).read_text() == unit_text(folder, "pump-1")
    assert done == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", name),
        ("systemctl", "restart", name),
    ]
