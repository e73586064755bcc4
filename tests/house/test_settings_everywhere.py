"""Each setting of each program can be given by its file and by the environment, and the environment goes over the file.

A program's table names every key with two valid values; a setting that is missing from it fails the first test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.settings import PREFIX as FLEET_PREFIX
from fleet.settings import Settings as FleetSettings
from fleet.settings import load_fleet_settings

Load = Callable[[Path, Mapping[str, str]], msgspec.Struct]


@dataclass(frozen=True)
class Program:
    """A program's settings: the struct, what loads it, and for each key two values that go with all the others."""

    kind: type[msgspec.Struct]
    prefix: str
    load: Load
    values: dict[str, tuple[Any, Any]]


PROGRAMS = {
    "fleet": Program(
        FleetSettings,
        FLEET_PREFIX,
        load_fleet_settings,
        {
            "listen": ("127.0.0.1:1", "0.0.0.0:2"),
            "tls_cert": ("a.pem", "/b.pem"),
            "tls_key": ("a.key", "/b.key"),
            "data_dir": ("a", "/b"),
            "database_url": ("sqlite:////a", "postgresql+psycopg://b"),
            "tenant": ("a", "b"),
            "release_keys": (["a.pem"], ["b.pem", "/c.pem"]),
            "mqtt.url": ("mqtt://127.0.0.1:1", "mqtts://broker.example"),
            "mqtt.username": ("a", "b"),
            "mqtt.password_file": ("a", "b"),
            "mqtt.ca_file": ("a.pem", "b.pem"),
            "mqtt.reconnect_s": (1.0, 2),
            "mqtt.accounts_file": ("a", "b"),
            "mqtt.services": ({"a": "a.password"}, {"b": "b.password"}),
            "mqtt.broker_pid_file": ("a", "b"),
            "mqtt.batch_events": (1, 2),
            "mqtt.batch_wait_s": (0.5, 1),
            "mqtt.queued_events": (1000, 2000),
            "enrolment.claim_tokens_file": ("a", "b"),
            "maximum_bundle_bytes": (1, 2),
            "offline_after_s": (1.5, 2),
            "health_history_s": (1.5, 2),
        },
    )
}

KEYS = [(name, key) for name, program in PROGRAMS.items() for key in program.values]


def keys_of(kind: type[msgspec.Struct], place: str = "") -> Iterator[str]:
    """Every key of a struct, those of tables by their path."""
    for field in msgspec.structs.fields(kind):
        table = next((s for s in structs_in(field.type)), None)
        if table is not None:
            yield from keys_of(table, f"{place}{field.encode_name}.")
        elif field.name != "config_file":
            yield place + field.encode_name


def structs_in(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that `annotation` may be, whether or not it may be None too."""
    for member in getattr(annotation, "__args__", [annotation]):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            yield member


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
    assert set(PROGRAMS[name].values) == set(keys_of(PROGRAMS[name].kind))


@pytest.mark.parametrize("source", ["file", "environment"])
@pytest.mark.parametrize(("name", "key"), KEYS)
def test_each_setting_comes_by_file_and_by_environment(
    name: str, key: str, source: str, tmp_path: Path
) -> None:
    program = PROGRAMS[name]
    in_file, in_environment = program.values[key]
    assert in_file != in_environment
    # dotted keys of TOML: no table's header is needed
    (tmp_path / "p.toml").write_text("".join(f"{k} = {toml(v[0])}\n" for k, v in program.values.items()))
    environment = {}
    if source == "environment":
        text = in_environment if isinstance(in_environment, str) else toml(in_environment)
        environment = {program.prefix + key.replace(".", "__").upper(): text}
    value = found(program.load(tmp_path / "p.toml", environment), key)
    assert value == resolved(in_environment if environment else in_file, value, tmp_path)
