"""Each setting of each program can be given by its file and by the environment, and the environment goes over the file.

A program's table (`settings_tables`) names every key with two valid values; a setting that is missing from it fails the first test.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec
import pytest
from settings_tables import FAMILY, NEEDED_BESIDE, PROGRAMS, REPEATED

from aggregator.rounds.family import FamilySettings
from aggregator.settings import PREFIX as AGGREGATOR_PREFIX
from aggregator.settings import Settings as AggregatorSettings
from aggregator.settings import load_aggregator_settings
from runtime.errors import SettingsError

KEYS = [
    (name, key) for name, program in PROGRAMS.items() for key in program.values if (name, key) not in REPEATED
]


def keys_of(kind: type[msgspec.Struct], tags: Mapping[str, str], place: str = "") -> Iterator[str]:
    """Every key of a struct, those of tables by their path."""
    for known in msgspec.structs.fields(kind):
        inside = f"{place}{known.encode_name}."
        tables = [
            s for s in structs_in(known.type) if s.__struct_config__.tag in {None, tags.get(f"{inside}kind")}
        ]
        if tables:
            yield from keys_of(tables[0], tags, inside)
        elif known.name != "config_file":
            yield place + known.encode_name


def structs_in(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that `annotation` may be, whether or not it may be None too; of tables in a list, none."""
    if get_origin(annotation) is tuple:
        return
    for member in getattr(annotation, "__args__", [annotation]):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            yield member


def lists_in(document: dict[str, Any], place: str = "") -> Iterator[str]:
    """The path of every list of tables in a document."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from lists_in(value, f"{place}{key}.")
        else:
            yield f"{place}{key}"


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def found(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


def resolved(value: Any, like: Any, folder: Path) -> Any:
    """A value as the program sees it: paths are relative to the file."""
    if isinstance(value, dict):
        return {key: resolved(inner, like[key], folder) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(resolved(inner, one, folder) for inner, one in zip(value, like, strict=True))
    return folder / value if isinstance(like, Path) else value


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_table_names_every_setting(name: str) -> None:
    program = PROGRAMS[name]
    named = {
        key
        for other in PROGRAMS.values()
        if other.kind is program.kind
        for key in [*other.values, *lists_in(tomllib.loads(other.lists))]
    }
    known = set(keys_of(program.kind, program.tags))
    assert known <= named
    assert set(program.values) <= known


@pytest.mark.parametrize("source", ["file", "environment"])
@pytest.mark.parametrize(("name", "key"), KEYS)
def test_each_setting_comes_by_file_and_by_environment(
    name: str, key: str, source: str, tmp_path: Path
) -> None:
    program = PROGRAMS[name]
    in_file, in_environment = program.values[key]
    assert in_file != in_environment
    # dotted keys of TOML: no table's header is needed
    written = program.tags | {k: v[0] for k, v in program.values.items()}
    (tmp_path / "p.toml").write_text(
        "".join(f"{k} = {toml(v)}\n" for k, v in written.items()) + program.lists
    )
    environment = {}
    if source == "environment":
        text = in_environment if isinstance(in_environment, str) else toml(in_environment)
        environment = {program.prefix + key.replace(".", "__").upper(): text}
    value = found(program.load(tmp_path / "p.toml", environment), key)
    assert value == resolved(in_environment if environment else in_file, value, tmp_path)


def test_the_table_names_every_setting_of_a_family() -> None:
    assert set(FAMILY) == set(keys_of(FamilySettings, {}))


@pytest.mark.parametrize("key", FAMILY)
def test_each_setting_of_a_family_comes_by_the_file(key: str, tmp_path: Path) -> None:
    program = PROGRAMS["aggregator"]
    beside = next((needs for start, needs in NEEDED_BESIDE.items() if key.startswith(start)), {})
    family = {"name": "a"} | beside | {key: FAMILY[key]}
    lines = [f"{k} = {toml(v[0])}" for k, v in program.values.items()]
    lines += ["[[family]]", *(f"{k} = {toml(v)}" for k, v in family.items())]
    (tmp_path / "p.toml").write_text("\n".join(lines))
    settings = program.load(tmp_path / "p.toml", {})
    assert isinstance(settings, AggregatorSettings)
    assert found(settings.family[0], key) == FAMILY[key]


def test_families_do_not_come_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("")
    with pytest.raises(SettingsError, match=r"\[\[family\]\] are tables in a list; give them in the file"):
        load_aggregator_settings(tmp_path / "p.toml", {f"{AGGREGATOR_PREFIX}FAMILY": "[]"})


def test_the_command_line_clients_variables_are_no_settings_of_the_aggregator(tmp_path: Path) -> None:
    program = PROGRAMS["aggregator"]
    lines = [f"{k} = {toml(v[0])}" for k, v in program.values.items()]
    (tmp_path / "p.toml").write_text("\n".join([*lines, program.lists]))
    clients = {f"{AGGREGATOR_PREFIX}{name}": "x" for name in ("URL", "CA", "TOKEN_FILE")}
    program.load(tmp_path / "p.toml", clients)
