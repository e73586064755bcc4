"""One file and one command let a device join a real fleet on a real broker, watch, and go on after whatever ended it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import agent_world
import msgspec
import pytest
import trustme
from join_world import FAMILY, Joining, JoinSite, join_site, write_recording
from waiting import wait_until

import runtime.durable_files
from edge_agent.commands import joining
from edge_agent.commands.joining import QUESTIONS, Wishes, join_device
from edge_agent.errors import (
    FleetConflictError,
    FleetDeniedError,
    FleetTlsError,
    FleetUnreachableError,
    SourceError,
)
from edge_agent.joining.folder import JoinedFolder
from fleet.plant import agent_requirements
from protocol.join_file import JoinFile, open_join_file, write_join_file
from runtime.errors import FedgeError, SettingsError

pytestmark = pytest.mark.slow
STRANGER = trustme.CA().cert_pem.bytes().decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinSite]:
    # what a device installs has a test of its own, and takes a network
    with (
        patch.object(agent_requirements, "write_agent_requirements", lambda *_: False),
        join_site(tmp_path_factory.mktemp("site") / "plant") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "rec.csv")


class Started(BaseException):
    """Instead of the attendant: joining came to its end."""


@pytest.fixture
def _stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise Started

    monkeypatch.setattr(joining.os, "execv", started)  # type: ignore[attr-defined] # the module's own import


def file_of(site: JoinSite, device: str, folder: Path, **changes: Any) -> Path:
    """The join file of a new device, with other values in it where a test says so."""
    made = site.add(device)
    assert made.returncode == 0, made.stderr
    path = site.plant.join_file(device)
    if changes:
        join = msgspec.structs.replace(open_join_file(path.read_bytes(), None), **changes)
        path = folder / path.name
        path.write_bytes(write_join_file(join, None, os.urandom))
    return path


def test_a_device_joins_watches_and_goes_on_after_a_kill(
    site: JoinSite, recording: Path, tmp_path: Path
) -> None:
    file, folder = file_of(site, "pump-1", tmp_path), tmp_path / "pump-1"
    words = (str(file), "--source", str(recording), "--state", str(folder), "--foreground", "--speed", "100")
    with Joining(tmp_path / "said", *words) as first:
        first.says("enrolled as device pump-1 of tenant acme, family pump")
        first.says("waits for a release of family pump")
        site.roll_out()
        first.says("watching: pump-1 with release pump/1")
        key = (folder / "state" / "device.key").read_bytes()
        assert not (folder / "claim.token").exists(), "a claim is of no use once it is used"
        again = subprocess.run(
            [sys.executable, "-m", "edge_agent", "join", *words], capture_output=True, text=True, check=False
        )
        assert again.returncode == 0
        assert "runs already; watching: pump-1" in again.stdout
        agent = json.loads((folder / "state" / "status.json").read_text())["pid"]
        os.kill(agent, signal.SIGKILL)
        first.says("the agent ended with -9, and is started again")
        os.killpg(first.process.pid, signal.SIGKILL)
    with Joining(tmp_path / "said again", str(file), "--state", str(folder), "--foreground") as second:
        second.says("watching: pump-1 with release pump/1")
        assert "enrolled" not in second.said
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait() == 0
    assert (folder / "state" / "device.key").read_bytes() == key
    assert (folder / "agent.log").read_text().count("agent_stopped") == 1
    (claim,) = site.claims_of("pump-1")
    assert claim["used_by"] == "pump-1"


@pytest.mark.usefixtures("_stays_here")
def test_joining_that_is_killed_at_any_write_goes_on_with_one_key_and_one_claim(
    site: JoinSite, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As a power cut: nothing after it is done."""

    file, left = file_of(site, "pump-2", tmp_path), 0
    write = runtime.durable_files._write

    def dying(*given: Any, **more: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        write(*given, **more)

    monkeypatch.setattr(runtime.durable_files, "_write", dying)
    wishes = Wishes(source=str(recording), state=tmp_path / "pump-2", is_foreground=True)
    keys = set()
    for kills in range(100):
        left = kills
        try:
            join_device(file, wishes)
        except Killed:
            key = tmp_path / "pump-2" / "state" / "device.key"
            keys |= {key.read_bytes()} if key.exists() else set()
        except Started:
            break
    assert kills >= 6, "the files of a device"
    assert len(keys) == 1
    (claim,) = site.claims_of("pump-2")
    assert claim["used_by"] == "pump-2"


@pytest.mark.usefixtures("_stays_here")
@pytest.mark.parametrize(
    ("device", "changes", "error", "told"),
    [
        ("wrong-port", {"fleet_url": "https://localhost:9"}, FleetUnreachableError, "Is the plant up"),
        (
            "wrong-host",
            {"fleet_url": "https://nowhere.invalid:8443"},
            FleetUnreachableError,
            "host 'nowhere.invalid' is unknown",
        ),
        (
            "other-plant",
            {"ca": STRANGER},
            FleetTlsError,
            "another plant has another CA: join it with a file of its own",
        ),
        (
            "no-claim",
            {"claim": "fc_unknown"},
            FleetDeniedError,
            "fedge device add no-claim, and join with the new file",
        ),
    ],
)
def test_what_keeps_a_device_out_is_one_line_with_the_remedy(
    site: JoinSite,
    recording: Path,
    tmp_path: Path,
    device: str,
    changes: dict[str, Any],
    error: type[FedgeError],
    told: str,
) -> None:
    file = file_of(site, device, tmp_path, **changes)
    with pytest.raises(error, match=told) as refused:
        join_device(file, Wishes(source=str(recording), state=tmp_path / device, is_foreground=True))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("_stays_here")
def test_a_claim_that_has_ended_or_was_used_says_how_to_get_another(
    site: JoinSite, recording: Path, tmp_path: Path
) -> None:
    ended = site.add("pump-3", "--valid", "1s")
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: time.time() > site.claims_of("pump-3")[0]["expires_at"], "the claim to end")
    file = site.plant.join_file("pump-3")
    with pytest.raises(FleetDeniedError, match=r"has expired.*fedge device add pump-3") as refused:
        join_device(file, Wishes(source=str(recording), state=tmp_path / "a", is_foreground=True))
    assert "fc_" not in str(refused.value)
    file = file_of(site, "pump-3", tmp_path)
    with pytest.raises(Started):
        join_device(file, Wishes(source=str(recording), state=tmp_path / "b", is_foreground=True))
    with pytest.raises(FleetConflictError, match="has joined already, with another key"):
        join_device(file, Wishes(source=str(recording), state=tmp_path / "c", is_foreground=True))
    again = site.add("pump-3")
    assert again.returncode == 1
    assert "pump-3 has joined already" in again.stderr


@pytest.mark.usefixtures("_stays_here")
def test_a_broker_that_cannot_be_reached_and_a_clock_that_is_off_are_told_and_hinder_nothing(
    site: JoinSite,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = file_of(site, "pump-4", tmp_path, broker_url="mqtts://localhost:9")
    monkeypatch.setattr(
        joining, "call_fleet", lambda settings: _call(settings, lambda: time.time() - 3 * 3600)
    )
    with pytest.raises(Started):
        join_device(file, Wishes(source=str(recording), state=tmp_path / "pump-4", is_foreground=True))
    said = capsys.readouterr().err
    assert "this device's clock is 3 hours behind the fleet's" in said
    assert "the broker mqtts://localhost:9 refuses: nothing listens there. Is the plant up" in said


_call = joining.call_fleet


@pytest.mark.usefixtures("_stays_here")
def test_a_source_of_other_columns_is_refused_before_anything_is_written(
    site: JoinSite, tmp_path: Path
) -> None:
    other = write_recording(tmp_path / "other.csv", names=("feature-0", "feature-1", "Level"))
    file = file_of(site, "pump-5", tmp_path)
    wishes = Wishes(source=str(other), state=tmp_path / "pump-5", is_foreground=True)
    with pytest.raises(
        SettingsError,
        match="has no sensor feature-2, feature-3, feature-4, feature-5; family pump is made of",
    ):
        join_device(file, wishes)
    assert not (tmp_path / "pump-5").exists()
    (claim,) = site.claims_of("pump-5")
    assert claim["used_by"] is None


@pytest.mark.usefixtures("_stays_here")
def test_a_source_table_of_other_columns_is_refused_and_can_be_mended(
    site: JoinSite, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "plc.toml").write_text('[source]\nkind = "lines"\ninput = "/dev/null"\ncolumns = ["a"]\n')
    file = file_of(site, "pump-6", tmp_path)
    with pytest.raises(SourceError, match="the source does not give what family pump was made from"):
        join_device(
            file, Wishes(source=str(tmp_path / "plc.toml"), state=tmp_path / "pump-6", is_foreground=True)
        )
    with pytest.raises(Started):
        join_device(file, Wishes(source=str(recording), state=tmp_path / "pump-6", is_foreground=True))


@pytest.mark.usefixtures("_stays_here")
def test_a_recording_that_can_be_read_in_two_ways_is_asked_about(
    site: JoinSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [",".join(agent_world.NAMES), *(f"{i},1,2,3,4,{i}.5" for i in range(200))]
    (tmp_path / "rec.csv").write_text("\n".join(lines) + "\n")
    file = file_of(site, "pump-7", tmp_path)
    wishes = Wishes(source=str(tmp_path / "rec.csv"), state=tmp_path / "pump-7", is_foreground=True)
    assert join_device(file, wishes) == QUESTIONS
    assert "answer with --answer KEY=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "pump-7").exists()


@pytest.mark.usefixtures("_stays_here")
def test_a_sealed_file_opens_to_its_passphrase_and_a_changed_agent_toml_is_kept(
    site: JoinSite, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    (tmp_path / "secret").chmod(0o644)
    refused = site.add("pump-8", "--passphrase-file", str(tmp_path / "secret"))
    assert refused.returncode == 2
    assert "is open to every user of this machine" in refused.stderr
    assert not site.plant.join_file("pump-8").exists()
    (tmp_path / "secret").chmod(0o600)
    made = site.add("pump-8", "--passphrase-file", str(tmp_path / "secret"))
    assert "sealed" in made.stdout
    file, state = site.plant.join_file("pump-8"), tmp_path / "pump-8"
    with pytest.raises(SettingsError, match="is sealed: give --passphrase-file"):
        join_device(file, Wishes(source=str(recording), state=state, is_foreground=True))
    (tmp_path / "letter").write_text("Dear Ann,\ncorrect horse\n")
    for wrong, why in (("letter", "does not hold one line"), ("nothing", "is not there")):
        with pytest.raises(SettingsError, match=why):
            join_device(file, Wishes(source=str(recording), state=state, passphrase_file=tmp_path / wrong))
    wishes = Wishes(
        source=str(recording), state=state, is_foreground=True, passphrase_file=tmp_path / "secret"
    )
    with pytest.raises(Started):
        join_device(file, wishes)
    config = JoinedFolder(path=state).config
    config.write_text(config.read_text().replace("[trust]", "labels = { line = '3' }\n\n[trust]"))
    before = config.read_text()
    with pytest.raises(Started):
        join_device(file, wishes)
    assert config.read_text() == before
    assert "was changed by hand, and is kept" in capsys.readouterr().out
    other = msgspec.structs.replace(_opened(file, "correct horse"), device="pump-9")
    (tmp_path / "other.join").write_bytes(write_join_file(other, None, os.urandom))
    with pytest.raises(SettingsError, match="is the folder of another device"):
        join_device(tmp_path / "other.join", Wishes(source=str(recording), state=state, is_foreground=True))


def _opened(file: Path, passphrase: str) -> JoinFile:
    return open_join_file(file.read_bytes(), passphrase)


def test_join_files_are_secrets_and_say_what_the_family_is(site: JoinSite, tmp_path: Path) -> None:
    file = file_of(site, "pump-10", tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    join = open_join_file(file.read_bytes(), None)
    assert (join.tenant, join.family, join.features) == ("acme", FAMILY, agent_world.SPEC)
    earlier, again = join.claim, open_join_file(file_of(site, "pump-10", tmp_path).read_bytes(), None).claim
    assert earlier != again
    states = [claim["revoked_at"] is None for claim in site.claims_of("pump-10")]
    assert sorted(states) == [False, True], "a file that was made anew makes the former one void"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x", "--family", "nope"], "there is no family 'nope'; there is pump"),
        (["x", "x"], "a device is named twice"),
        (["Fleet"], "is the name of a service"),
        (["../x"], "not a valid name"),
        (["x", "--label", "line"], "is not name=value"),
    ],
)
def test_what_cannot_be_added_is_one_line(site: JoinSite, words: list[str], told: str) -> None:
    done = site.add(*words)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert "Traceback" not in done.stderr
