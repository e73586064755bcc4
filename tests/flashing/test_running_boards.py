"""A board that runs gets its agent over a real sshd, as a user without rights, joins a real fleet and watches."""

from __future__ import annotations

import dataclasses
import json
import platform
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from card_world import join_file
from command_line import run_command
from join_world import JoinSite, join_site, write_recording
from ssh_board import Board, ssh_board
from tiny_wheels import tiny_wheel

from fleet.device_bundle.archive import DeviceBundle
from fleet.device_bundle.boards import PYTHONS, Arch
from fleet.device_bundle.boards import Board as Kind
from fleet.device_bundle.making import make_bundle
from fleet.flashing.board_facts import BoardFacts, check_board, clock_words, read_facts
from fleet.plant import agent_requirements
from runtime.errors import SettingsError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HERE = Kind(
    arch=Arch.ARM64 if platform.machine() == "aarch64" else Arch.AMD64,
    python=f"{sys.version_info.major}.{sys.version_info.minor}",
)
OTHER = Kind(arch=Arch.AMD64 if HERE.arch is Arch.ARM64 else Arch.ARM64, python=HERE.python)
FACTS = BoardFacts(
    machine="aarch64",
    home="/home/pi",
    user="pi",
    now=1e9,
    rights="sudo",
    has_systemd=True,
    free_mb={"/opt": 5000.0, "/home/pi": 10.0},
    pythons={"3.13": ("/usr/bin/python3.13", True)},
    bundles={},
    default_python="3.13",
)
BUNDLE = DeviceBundle(path=Path("agent.tar.xz"), board=Kind(arch=Arch.ARM64, python="3.13"), version="1.0")


@pytest.fixture(scope="module")
def bundle(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent of this checkout and the packages of these tests, found by a .pth instead of brought along."""
    folder = tmp_path_factory.mktemp("shared")
    lines = [tiny_wheel(folder, "fedge", {})]
    shared = "\n".join([str(ROOT), *site.getsitepackages()]) + "\n"
    lines.append(tiny_wheel(folder, "shared", {"shared.pth": shared.encode()}))
    path = folder / "agent-requirements.txt"
    path.write_text(
        "\n".join(line.replace("==1.0 ", "-1.0-py3-none-any.whl ") for line in lines)
        .replace("fedge-", "./fedge-")
        .replace("shared-", "./shared-")
        + "\n"
    )
    make_bundle(path, HERE, folder / "agent.tar.xz")
    make_bundle(listed, OTHER, folder / "other.tar.xz")
    return folder / "agent.tar.xz"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinSite]:
    with (
        patch.object(agent_requirements, "write_agent_requirements", lambda *_: False),
        join_site(tmp_path_factory.mktemp("site") / "plant") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with ssh_board(tmp_path_factory.mktemp("board")) as made, pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(made.bin), prepend=":")
        yield made


def flash(board: Board, join: Path, bundle: Path, source: str) -> subprocess.CompletedProcess[str]:
    words = ("--join", str(join), "--bundle", str(bundle), "--source", source)
    return run_command("fleet", "flash", "--ssh", board.place, *words)


def test_one_command_makes_a_board_that_watches_and_again_it_is_harmless(
    plant: JoinSite, board: Board, bundle: Path, tmp_path: Path
) -> None:
    plant.roll_out()
    assert plant.add("pump-1").returncode == 0
    join, recording = plant.plant.join_file("pump-1"), write_recording(tmp_path / "rec 1.csv")
    done = flash(board, join, bundle, str(recording))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{board.log.read_text()}"
    assert "as tester, without root" in done.stdout
    assert "fedge-agent 1.0, installed in" in done.stdout
    assert "enrolled as device pump-1" in done.stdout
    assert "no systemd unit: nothing starts it again after a restart of the board (no root)" in done.stdout
    assert any(
        line.startswith("watching, and learning what is normal for pump-1")
        for line in done.stdout.splitlines()
    ), done.stdout
    fedge = board.home / ".local/share/fedge"
    again = flash(board, join, bundle, str(recording))
    assert again.returncode == 0, again.stderr
    assert "this bundle is there already" in again.stdout
    assert "runs already" in again.stdout
    assert not list((fedge / "first-boot").glob("*.join")), "the claim was used"
    assert json.loads((fedge / "pump-1/state/status.json").read_text())["device"] == "pump-1"
    claim = json.loads(join.read_text())["claim"]
    assert claim not in board.log.read_text() + done.stdout + done.stderr


def test_a_newer_agent_beside_one_that_runs_is_said_to_wait_for_its_next_start(
    plant: JoinSite, board: Board, bundle: Path, tmp_path: Path
) -> None:
    tree = board.home / ".local/share/fedge/agent"
    (tree / "bundle.sha256").write_text("of the version before\n")
    (tree.with_name("agent.old")).mkdir()
    done = flash(
        board,
        plant.plant.join_file("pump-1"),
        bundle,
        str(board.home / ".local/share/fedge/first-boot/rec 1.csv"),
    )
    assert done.returncode == 0, done.stderr
    assert "what runs is the agent of before, until pump-1's is started again, or the board" in done.stdout
    assert not tree.with_name("agent.old").exists()


def test_what_a_cut_has_left_between_two_agents_is_put_back(
    board: Board, tmp_path: Path, bundle: Path
) -> None:
    tree = board.home / ".local/share/fedge/agent"
    before = (tree / "bundle.sha256").read_text()
    tree.rename(tree.with_name("agent.old"))
    (tmp_path / "broken").write_bytes(bundle.read_bytes()[:-100])
    done = flash(board, join_file(tmp_path, "valve-9"), tmp_path / "broken", "/dev/ttyUSB0")
    assert done.returncode == 1, done.stdout
    assert (tree / "bundle.sha256").read_text() == before


def test_a_bundle_for_another_board_is_refused_and_nothing_is_changed(
    board: Board, bundle: Path, tmp_path: Path
) -> None:
    before = sorted(str(path) for path in board.home.rglob("*"))
    done = flash(board, join_file(tmp_path), bundle.with_name("other.tar.xz"), "/dev/ttyUSB0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"fedge-fleet bundle --arch {HERE.arch} --python" in done.stderr
    assert sorted(str(path) for path in board.home.rglob("*")) == before


def test_a_bundle_that_does_not_start_leaves_the_boards_own_alone(
    board: Board, bundle: Path, tmp_path: Path
) -> None:
    tree = board.home / ".local/share/fedge/agent"
    before = (tree / "bundle.sha256").read_text()
    broken = {
        "edge_agent/__init__.py": b"",
        "edge_agent/__main__.py": b"raise SystemExit('its parts do not fit')\n",
    }
    line = tiny_wheel(tmp_path, "fedge", broken)
    (tmp_path / "list.txt").write_text(line.replace("fedge==1.0", "./fedge-1.0-py3-none-any.whl") + "\n")
    make_bundle(tmp_path / "list.txt", HERE, tmp_path / "broken")
    done = flash(board, join_file(tmp_path, "valve-9"), tmp_path / "broken", "/dev/ttyUSB0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.endswith("its parts do not fit\n")
    assert (tree / "bundle.sha256").read_text() == before
    assert sorted(path.name for path in tree.parent.iterdir()) == ["agent", "first-boot", "pump-1"]


@pytest.mark.parametrize("place", ["-oProxyCommand=touch /tmp/x", "user@host;reboot", ""])
def test_a_place_that_is_none_never_reaches_ssh(tmp_path: Path, bundle: Path, place: str) -> None:
    words = ("--join", str(join_file(tmp_path)), "--bundle", str(bundle), "--source", "/dev/ttyUSB0")
    done = run_command("fleet", "flash", f"--ssh={place}", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is no place: give user@host" in done.stderr


def test_a_board_that_does_not_answer_is_one_line(tmp_path: Path, bundle: Path, board: Board) -> None:
    gone = dataclasses.replace(board, place="ssh://tester@127.0.0.1:9")
    done = flash(gone, join_file(tmp_path), bundle, "/dev/ttyUSB0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (
        "ssh did not come through: ssh: connect to host 127.0.0.1 port 9: Connection refused" in done.stderr
    )


def test_a_board_that_fits_gives_its_python() -> None:
    assert check_board(FACTS, BUNDLE, "pi@valve") == "/usr/bin/python3.13"
    assert (FACTS.agent, FACTS.state) == ("/opt/fedge", "/var/lib/fedge")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"machine": "armv7l"}, "pi@valve is armv7l, and an agent runs on aarch64 and x86_64 alone"),
        (
            {"pythons": {}, "default_python": "3.10"},
            r"has no Python that an agent runs on \(3.11 or 3.12 or 3.13; it has 3.10\).*uv python install",
        ),
        (
            {"machine": "x86_64"},
            "is amd64 with Python 3.13, and agent.tar.xz is for arm64 .*: fedge-fleet bundle --arch amd64 --python 3.13",
        ),
        (
            {"pythons": {"3.12": ("/usr/bin/python3.12", True)}},
            "fedge-fleet bundle --arch arm64 --python 3.12 --out agent-arm64-3.12",
        ),
        (
            {"pythons": {"3.13": ("/usr/bin/python3.13", False)}},
            r"no libstdc\+\+6.*: sudo apt-get install libstdc\+\+6",
        ),
        ({"free_mb": {"/opt": 250.0}}, "has 250 MB free in /opt; an agent needs 300 MB"),
        ({"rights": "none"}, "has 10 MB free in /home/pi; an agent needs 300 MB"),
    ],
)
def test_a_board_that_does_not_fit_is_told_in_one_line(changed: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as told:
        check_board(dataclasses.replace(FACTS, **changed), BUNDLE, "pi@valve")
    assert "\n" not in str(told.value)


def test_the_clock_is_told_and_stops_nothing() -> None:
    assert clock_words(FACTS, 1e9 + 200) == ""
    assert clock_words(FACTS, 1e9 + 3 * 3600).startswith("the board's clock is 3.0 hours behind")
    assert clock_words(FACTS, 1e9 - 40 * 86400).startswith("the board's clock is 40 days ahead")


def test_an_answer_that_is_no_linuxs_is_told() -> None:
    with pytest.raises(SettingsError, match="does not say its machine"):
        read_facts("'sh' is not recognized as an internal or external command\n")
    assert set(PYTHONS) >= set(FACTS.pythons)
