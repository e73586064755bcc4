"""Durable files, the score log, and asking for desired state over HTTPS."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge_agent.desired_poll import DesiredPoll
from edge_agent.durable_files import private_directory, read_bytes, replace_file, write_durably, write_quickly
from edge_agent.enrolled import Enrolled, load_device_key, load_enrolled
from edge_agent.errors import FleetError, FleetUnreachableError, NotEnrolledError, StorageError
from edge_agent.fleet_client import DesiredAnswer
from edge_agent.score_log import HEADER, ScoreLog
from protocol.messages.payloads import DesiredState

pytestmark = pytest.mark.edge


def test_a_durable_write_fsyncs_the_file_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        target = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        steps.append("directory" if target == str(tmp_path) else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_durably(tmp_path / "x", b"new", mode=0o600)
    assert steps == ["file", "rename", "directory"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    write_quickly(tmp_path / "y", b"new")
    assert steps == ["file", "rename", "directory", "rename"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_durably(tmp_path / "x", b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", refuse) if step == "fsync" else (Path, "replace", refuse)))
    with pytest.raises(
        StorageError, match=r"3 bytes to .*x: No space left on device; the old file is untouched"
    ):
        write_durably(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_reading_tells_missing_from_unreadable(tmp_path: Path) -> None:
    assert read_bytes(tmp_path / "none") is None
    with pytest.raises(StorageError, match="cannot read"):
        read_bytes(tmp_path)


def test_a_name_that_is_taken_by_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StorageError, match="cannot create directory"):
        private_directory(tmp_path / "x")
    assert private_directory(tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "part").write_text("whole")
    replace_file(tmp_path / "part", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "whole"
    with pytest.raises(StorageError, match="cannot rename"):
        replace_file(tmp_path / "part", tmp_path / "final")


def test_the_score_log_appends_over_restarts_with_one_header(tmp_path: Path) -> None:
    for score in (1.5, 3.0):
        log = ScoreLog(tmp_path / "scores.csv")
        log.add(wall_s=1.0, machine_s=2.0, score=score, threshold=2.0, release="pump/1")
        log.flush()
        log.flush()
    assert (tmp_path / "scores.csv").read_text() == (
        HEADER + "1.000,2.000,1.5,2,0,pump/1\n1.000,2.000,3,2,1,pump/1\n"
    )


def test_a_score_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ScoreLog(tmp_path / "missing" / "scores.csv")
    for _ in range(3):
        log.add(wall_s=1.0, machine_s=2.0, score=1.0, threshold=2.0, release="pump/1")
        log.flush()
    assert caplog.text.count("score_log_off") == 1


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"device": "d"}', b"\xff"])
def test_a_device_without_identity_is_told_to_enrol(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "enrolment.json").write_bytes(content)
        (tmp_path / "device.key").write_bytes(content)
    with pytest.raises(NotEnrolledError, match="fedge-agent enrol"):
        load_enrolled(tmp_path / "enrolment.json")
    with pytest.raises(NotEnrolledError):
        load_device_key(tmp_path / "device.key")


def test_an_identity_never_shows_its_password(tmp_path: Path) -> None:
    (tmp_path / "e").write_text(
        '{"device":"d","tenant":"t","mqtt":{"username":"d","password":"hunter2"},"new":1}'
    )
    enrolled = load_enrolled(tmp_path / "e")
    assert isinstance(enrolled, Enrolled)
    assert enrolled.mqtt.password == "hunter2"
    assert "hunter2" not in repr(enrolled)


DESIRED = DesiredState(
    execution="e1", release="pump/2", counter=2, bundle_path="/v1/x", bundle_sha256="0" * 64, bundle_bytes=1
)


def test_desired_state_over_https_is_taken_once_and_asked_for_by_etag(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []
    answers: list[DesiredAnswer | FleetError] = [
        DesiredAnswer(state=DESIRED, etag="v1", is_unchanged=False),
        DesiredAnswer(state=None, etag="v1", is_unchanged=True),
        FleetUnreachableError("the fleet refused the connection"),
        FleetUnreachableError("the fleet refused the connection"),
    ]
    woken: list[bool] = []

    def ask(etag: str) -> DesiredAnswer:
        asked.append(etag)
        answer = answers.pop(0)
        if isinstance(answer, FleetError):
            raise answer
        return answer

    poll = DesiredPoll(ask, every_s=3600.0, is_needed=lambda: True, wake=lambda: woken.append(True))
    poll.ask_once()
    assert poll.take() == DESIRED
    assert poll.take() is None
    for _ in range(3):
        poll.ask_once()
    assert asked == ["", "v1", "v1", "v1"]
    assert len(woken) == 1
    assert caplog.text.count("desired_not_asked") == 1
    poll.close()
