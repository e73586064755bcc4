"""What make prove-arm64 decides before anything is built: without root, apt or emulation it says what is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from arm64_root import ENTER, TOOLS, NotPossibleError, enter, require_emulation, wheel_command
from edge_packages import ROOT, edge_requirements, edge_tests
from prove_arm64 import NOT_EMULATED, PROCESSORS, SELECTED


class ImaginaryHost:
    """A host with these programs; `arm64` is what arch-test says, call by call."""

    def __init__(self, *programs: str, is_root: bool = True, arm64: tuple[bool, ...] = (True,)) -> None:
        self._programs, self._is_root, self._arm64 = set(programs), is_root, list(arm64)
        self.commands: list[str] = []
        self.apt_works = True

    def is_root(self) -> bool:
        return self._is_root

    def has(self, program: str) -> bool:
        return program in self._programs

    def succeeds(self, *command: str) -> bool:
        self.commands.append(" ".join(command))
        if command[0] == "arch-test":
            return self._arm64.pop(0)
        return self.apt_works if command[0] == "apt-get" else True


def test_a_ready_host_is_left_as_it_is() -> None:
    host = ImaginaryHost(*TOOLS)
    require_emulation(host, pytest.fail)
    assert host.commands == ["arch-test arm64"]


def test_without_root_it_says_how_to_run_it_and_what_to_install() -> None:
    with pytest.raises(NotPossibleError, match=r"sudo make prove-arm64.*apt-get install mmdebstrap"):
        require_emulation(ImaginaryHost(*TOOLS, is_root=False), pytest.fail)


def test_missing_tools_are_installed_by_apt_and_announced() -> None:
    host, said = ImaginaryHost("mmdebstrap", "arch-test", "apt-get"), []
    require_emulation(host, said.append)
    assert "qemu-aarch64-static missing" in said[0]
    assert [line for line in host.commands if "install" in line and "qemu-user-static" in line]


def test_missing_tools_without_apt_are_named() -> None:
    with pytest.raises(NotPossibleError, match=r"^mmdebstrap, arch-test missing and no apt-get"):
        require_emulation(ImaginaryHost("qemu-aarch64-static"), pytest.fail)


def test_an_apt_that_fails_ends_with_the_command_to_try_by_hand() -> None:
    host = ImaginaryHost("apt-get")
    host.apt_works = False
    with pytest.raises(NotPossibleError, match="try by hand: sudo apt-get install"):
        require_emulation(host, lambda _: None)


def test_qemu_is_registered_with_the_kernel_where_no_service_has_done_it() -> None:
    host = ImaginaryHost(*TOOLS, arm64=(False, True))
    require_emulation(host, pytest.fail)
    assert "update-binfmts --enable qemu-aarch64" in host.commands


def test_a_kernel_that_starts_no_arm64_programs_is_named_with_the_way_out() -> None:
    with pytest.raises(NotPossibleError, match="register qemu on its host"):
        require_emulation(ImaginaryHost(*TOOLS, arm64=(False, False)), pytest.fail)


def test_wheels_are_asked_for_by_every_tag_that_debian_12_on_arm64_takes() -> None:
    command = wheel_command(Path("target"), ["numpy"], "--no-deps")
    platforms = [command[i + 1] for i, word in enumerate(command) if word == "--platform"]
    assert {"manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_36_aarch64"} <= set(platforms)
    assert all(platform.endswith("aarch64") for platform in platforms)
    assert "manylinux_2_37_aarch64" not in platforms, "bookworm has glibc 2.36"
    assert "--only-binary=:all:" in command
    assert command[-1] == "numpy"
    assert command[command.index("--abi") + 1] == "cp311"


def test_no_requirement_of_a_device_depends_on_the_machine_that_downloads_it() -> None:
    """pip evaluates markers for the host: one that tells processors apart would install the wrong set."""
    requirements = edge_requirements((ROOT / "pyproject.toml").read_text())
    assert any(line.startswith("ai-edge-litert") for line in requirements)
    assert any(line.startswith("numpy") for line in requirements)
    assert not [line for line in requirements if "platform_machine" in line or "sys_platform" in line]


def test_the_selected_tests_are_those_of_graph_training_detectors_and_learner() -> None:
    files = edge_tests(*SELECTED)
    assert {
        "tests/models/test_models_litert.py",
        "tests/models/test_models_local_training.py",
        "tests/models/test_detection_drift.py",
        "tests/models/test_detection_monitor.py",
        "tests/edge_agent/test_learner_answers.py",
    } <= set(files)
    assert set(files) < set(edge_tests())
    assert not [file for file in files if "fleet" in file]


def test_every_test_that_is_left_out_under_emulation_exists() -> None:
    texts = "".join((ROOT / file).read_text() for file in edge_tests(*SELECTED))
    for name in NOT_EMULATED:
        assert f"def {name}" in texts, f"no test begins with {name}; take it out of NOT_EMULATED"


@pytest.mark.parametrize("processor", PROCESSORS)
def test_each_processor_has_the_face_that_its_kernels_choose_by(processor: str) -> None:
    assert enter(Path("root"), processor, "true") == [str(ENTER), "root", processor, "true"]
    text = (ENTER.parent / "cpuinfo" / processor).read_text()
    assert "CPU implementer\t: 0x41" in text
    # The dot product of int8 came with the A76; XNNPACK has other kernels for it.
    assert ("asimddp" in text) == (processor == "cortex-a76")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: enter.sh ROOT PROCESSOR PROGRAM"),
        (("root", "z80", "true"), "known: cortex-a72 cortex-a76"),
    ],
)
def test_entering_the_root_wrongly_ends_with_status_2_and_a_hint(
    arguments: tuple[str, ...], message: str
) -> None:
    ended = subprocess.run([ENTER, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
