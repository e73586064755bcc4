"""The list of what a device installs: each file by its hash, for every board, and it really installs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fleet.plant.agent_requirements import RequirementsError, write_agent_requirements
from runtime.errors import SettingsError

SERVERS = ("sqlalchemy", "fastapi", "pydantic", "tensorflow", "torch", "scipy", "uvicorn")


def listed(path: Path) -> dict[str, int]:
    """Name → how many hashes."""
    found = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            found[re.split(r"==| ", line)[0].lower()] = line.count("--hash=sha256:")
    return found


def test_an_extra_that_no_device_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="--extra 'aggregator' is none of a device: opcua, modbus, pkcs11, torch"
    ):
        write_agent_requirements(tmp_path / "agent-requirements.txt", ["aggregator"])


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(
        RequirementsError, match=r"the package index cannot be reached.*fedge device requirements"
    ) as told:
        write_agent_requirements(tmp_path / "agent-requirements.txt")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "agent-requirements.txt").exists()


@pytest.mark.long
def test_the_list_installs_on_a_device_and_nothing_of_the_cloud_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "devices" / "agent-requirements.txt"
    assert write_agent_requirements(path)
    assert not write_agent_requirements(path), "made once"
    found = listed(path)
    assert all(found.values()), "a hash for each"
    assert not set(SERVERS) & set(found)
    assert found["numpy"] > 20, "of all files, and so for each board and Python"
    assert write_agent_requirements(path, ["modbus"])
    assert not write_agent_requirements(path), "an extra stays in the list"
    assert set(listed(path)) - set(found) == {"pymodbus"}
    device = tmp_path / "device"
    # on a device nothing else of ours can be found
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def on_device(program: str, *words: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [str(device / "bin" / program), *words]
        return subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, check=False)

    subprocess.run([sys.executable, "-m", "venv", str(device)], check=True)
    install = ("install", "-q", "--no-deps", "--require-hashes", "-r", path.name)
    done = on_device("pip", *install, folder=path.parent)
    assert done.returncode == 0, done.stderr
    assert "--source" in on_device("fedge-agent", "join", "--help").stdout
    parts = "import edge_agent.app, edge_agent.learner.__main__, edge_agent.learner.client_app, models.litert"
    done = on_device("python", "-c", parts)
    assert done.returncode == 0, done.stderr
    (wheel,) = path.parent.glob("fedge-*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    assert "HASH" in on_device("pip", *install, "--force-reinstall", folder=path.parent).stderr


@pytest.mark.long
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("board", ["x86_64", "aarch64"])
def test_every_board_and_python_finds_a_file_of_the_list(tmp_path: Path, board: str, python: str) -> None:
    path = tmp_path / "agent-requirements.txt"
    write_agent_requirements(path)
    platforms = [f"--platform={tag}_{board}" for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--require-hashes"]
    command += ["--target", str(tmp_path / "none"), f"--python-version={python}", *platforms, "-r", path.name]
    subprocess.run(command, check=True, cwd=tmp_path)


@pytest.mark.long
def test_the_wheel_of_an_installed_fedge_is_packed_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "agent-requirements.txt"
    write_agent_requirements(path)
    (wheel,) = tmp_path.glob("fedge-*.whl")
    installed = tmp_path / "installed"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(installed),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    program = (
        "from pathlib import Path\nfrom fleet.plant.agent_requirements import _packed\n"
        f"print(_packed(Path({str(tmp_path / 'packed')!r})))"
    )
    (tmp_path / "packed").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(done.stdout.strip()) as packed, zipfile.ZipFile(wheel) as built:
        names = {name for name in built.namelist() if not name.endswith("RECORD")}
        assert {name for name in packed.namelist() if not name.endswith("RECORD")} == names
        assert all(packed.read(name) == built.read(name) for name in names)
