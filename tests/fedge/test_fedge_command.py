"""The one command ``fedge`` hands each word to the program that owns it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from click import Group
from typer.main import get_command

import fedge
from fedge.cli import COMMANDS, main

APPLICATIONS = {
    "agent": ("edge_agent.commands.application", "application"),
    "fleet": ("fleet.cli", "app"),
    "aggregator": ("aggregator.cli", "cli"),
    "sim": ("simulations.cli", "app"),
}


@pytest.mark.parametrize("word", COMMANDS)
def test_every_word_leads_to_a_command_that_exists(word: str) -> None:
    command = COMMANDS[word]
    module, name = APPLICATIONS[command.program]
    group = get_command(getattr(import_module(module), name))
    if command.words:
        assert isinstance(group, Group)
        assert command.words[0] in group.commands


@pytest.mark.parametrize("words", [["fleet", "rollouts", "--help"], ["rollouts", "--help"]])
def test_a_word_is_handed_over_with_what_follows(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)
    assert "preview" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    shown = capsys.readouterr().out
    assert all(f"  {word} " in shown for word in COMMANDS)


def test_an_unknown_word_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rolouts"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "fedge: there is no command 'rolouts'; did you mean 'rollouts'?\n"


def test_a_part_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "fleet.cli", raising=False)
    monkeypatch.delitem(sys.modules, "typer", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        main(["devices"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "fedge: 'devices' needs 'typer', which is not installed: pip install 'fedge[fleet]'\n"
    )


def test_the_real_command_says_its_version_and_loads_no_owner() -> None:
    program = (
        "import sys; from fedge.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('typer', 'numpy', 'fleet', 'aggregator', 'edge_agent') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [f"fedge {fedge.__version__}", "[]"]
