"""The fleet's instruction key: made once, never replaced in silence, changed in two steps that a running fleet follows."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest
from command_line import run_command
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_world import TENANT
from instructions_world import looking, public
from structlog.testing import capture_logs
from trust_world import Keys, make_repository

from fleet.app import build_app
from fleet.errors import ConflictError
from fleet.instruction_key import InstructionKey
from fleet.settings import Settings
from fleet.storage.base import Database
from protocol.identity import load_public_key, private_key_pem, public_key_pem
from runtime.errors import SettingsError

__all__ = ["looking"]  # the fixture


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.append(private_key_pem(InstructionKey(folder).current())))
        for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(made)) == 1, "whoever makes it first, all have the same"
    assert len(made) == 8
    assert stat.S_IMODE((folder / "instruction.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"no key", private_key_pem(ec.generate_private_key(ec.SECP256R1()))[:60]]
)
def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instruction.key").write_bytes(content)
    with pytest.raises(SettingsError, match=r"instruction\.key is not the fleet's instruction key"):
        InstructionKey(tmp_path)
    assert (tmp_path / "instruction.key").read_bytes() == content


def test_a_key_is_changed_in_two_steps_and_a_running_fleet_follows(tmp_path: Path) -> None:
    running = InstructionKey(tmp_path)
    first = running.current()
    with pytest.raises(ConflictError, match="no next instruction key"):
        InstructionKey(tmp_path).switch()
    shown = InstructionKey(tmp_path).rotate()
    assert InstructionKey(tmp_path).rotate() == shown, "asked again, it is the same"
    assert running.current() is first
    assert running.public_halves() == public_key_pem(first.public_key()).decode() + shown
    assert stat.S_IMODE((tmp_path / "instruction-next.key").stat().st_mode) == 0o600
    InstructionKey(tmp_path).switch()
    assert public_key_pem(running.current().public_key()).decode() == shown == running.public_halves()
    assert [file.name for file in tmp_path.iterdir()] == ["instruction.key"]
    (tmp_path / "instruction.key").unlink()
    assert public_key_pem(running.current().public_key()).decode() == shown, "a disk that fails stops nothing"


def test_the_command_prints_public_halves_alone(tmp_path: Path) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text(f'data_dir = "data"\ntenant = "{TENANT}"\n')
    shown = [run_command("fleet", "instruction-key", "--config", str(config)).stdout for _ in range(2)]
    assert shown[0] == shown[1] == public_key_pem(public(tmp_path / "data")).decode()
    following = run_command("fleet", "instruction-key", "rotate", "--config", str(config)).stdout
    assert "PRIVATE" not in following
    assert run_command("fleet", "instruction-key", "--config", str(config)).stdout == shown[0] + following
    asked = run_command("fleet", "instruction-key", "switch", "--config", str(config))
    assert (asked.returncode, "cannot be undone" in asked.stderr) == (1, True)
    switch = ("instruction-key", "switch", "--yes", "--config", str(config))
    make_repository(tmp_path / "data", Keys(fleet=InstructionKey(tmp_path / "data").current()))
    early = run_command("fleet", *switch)
    assert (early.returncode, "does not name the next key yet" in early.stderr) == (1, True)
    assert load_public_key(following.encode()) != public(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "trust")
    assert run_command("fleet", *switch).returncode == 0
    assert public(tmp_path / "data") == load_public_key(following.encode())
    exported = tmp_path / "audit.jsonl"
    run_command("fleet", "audit", "export", "--config", str(config), "--out", str(exported))
    said = [json.loads(line) for line in exported.read_text().splitlines()]
    assert [line["action"] for line in said if line["action"] != "change_begun"] == [
        "instruction_key_rotated",
        "instruction_key_switched",
    ]
    refused = run_command("fleet", *switch)
    assert (refused.returncode, "no next instruction key" in refused.stderr) == (1, True)


def test_a_fleet_whose_key_the_repository_does_not_name_says_so(database: Database, tmp_path: Path) -> None:
    """Restored without its key, or switched too early: no device would obey it, and nobody would know why."""
    settings = Settings(data_dir=tmp_path, tenant=TENANT)
    for named in (InstructionKey(tmp_path).current(), ec.generate_private_key(ec.SECP256R1())):
        make_repository(tmp_path, Keys(fleet=named))
        with capture_logs() as lines:
            build_app(settings, database)
        said = [line for line in lines if line["event"] == "instruction_key_not_named"]
        assert bool(said) is (named.public_key() != public(tmp_path))
        shutil.rmtree(tmp_path / "trust")
    assert "fedge-fleet trust rotate fleet" in said[0]["mend"]
