"""Scenarios: read, checked, and refused with the nearest valid key."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations.cli import app
from simulations.errors import ScenarioError
from simulations.scenario import load_scenario


def test_the_demo_scenario_has_twelve_devices_of_three_kinds() -> None:
    scenario = load_scenario("demo")
    assert scenario.devices == 12
    assert len(scenario.hardware) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devics = 3", r"s.toml:1: .*devices"),
        ("[machines]\nspede = 3", r"s.toml:2: .*machines.speed"),
        ("devices = 'many'", "s.toml:1: devices = 'many'"),
        ("devices = 1", "s.toml:1: devices = 1 .*3"),
        ("watch_s = inf", "watch_s = inf .*finite"),
        ("devices = ", "not valid TOML"),
        ('[family]\nname = "press"\nrounds = { cuont = 2 }', "family.rounds.count"),
        (
            'devices = 4\n[family]\nname = "press"\ncohort = { minimum_devices = 6 }',
            "is more than devices = 4",
        ),
    ],
)
def test_a_wrong_scenario_is_refused_and_says_what_is_right(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=words):
        load_scenario(str(path))


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="demo"):
        load_scenario("demmo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nope"], "no scenario 'nope'"),
        (["run", "demo", "--data", "femto=/x"], "use --data pronostia=PATH"),
        (["run", "demo", "--data", "pronostia=/nowhere"], "no PRONOSTIA features at"),
    ],
)
def test_a_wrong_call_ends_with_one_clear_line_and_status_2(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert result.output.count("\n") == 1


def test_a_world_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    result = CliRunner().invoke(app, ["run", "demo", "--directory", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.output
    assert (tmp_path / "precious").read_text() == "x"


def test_what_a_simulation_needs_and_is_not_installed_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simulations.cli.find_spec", lambda name: None if name == "matplotlib" else name)
    result = CliRunner().invoke(app, ["run", "quick"])
    assert result.exit_code == 2
    assert result.output == "fedge-sim: matplotlib not installed: a simulation needs `pip install '.[sim]'`\n"
