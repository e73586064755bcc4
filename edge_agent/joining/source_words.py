"""What ``--source`` says, as the `[source]` table of agent.toml, with the columns that the family's models expect.

::

    rec.csv, rec.npz, …          a recording, read as the family's were
    -, /dev/ttyUSB0, a pipe      lines of text
    opc.tcp://plc:4840?ns=2      nodes that are called as the sensors are, in namespace 2
    mqtts://broker/line3         topics that are called as the sensors are, below line3
    module:function              a driver of your own; simulated: a machine that is none
    plc.toml                     a `[source]` table, for whatever does not fit into a word
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Struct

from edge_agent.settings import DetectionSettings
from edge_agent.sources.settings import SourceSettings
from models.errors import RecordingError
from models.recordings.questions import QuestionsOpen
from models.recordings.recording import listed
from protocol.join_file import JoinFile
from protocol.manifest import FeatureSpec
from runtime.errors import SettingsError
from runtime.settings import read_settings

__all__ = ["source_table"]

LEARNT_WITHIN_S: Final = 20.0
"""A recording is played so fast that commissioning takes no longer: nobody waits for the past."""
_FORMS: Final = "give a recording (rec.csv), - or a serial port, opc.tcp://…, mqtts://…, module:function, or a file with a [source] table (plc.toml)"
_DRIVER: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class _Holder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: SourceSettings


def source_table(
    words: str,
    join: JoinFile,
    *,
    answers: Mapping[str, str],
    machine: str | None,
    speed: float | None,
    ca_file: str,
) -> dict[str, Any]:
    """The table, as TOML takes it; paths are absolute, but for `ca_file`, which stands as it is given.

    Raises:
        SettingsError: the words are none of the forms, or the source does not give what the family expects; says what would be valid.
        RecordingError: the recording cannot be read; `QuestionsOpen` where it can be read in several ways.
    """
    path, parts = Path(words).expanduser(), urlsplit(words)
    if words == "-" or _is_line(path):
        return {"kind": "lines", "input": words if words == "-" else str(path.absolute()), **_columns(join)}
    if parts.scheme in {"opc.tcp", "mqtt", "mqtts", "modbus"}:
        return _on_a_wire(words, join, ca_file)
    if words == "simulated":
        return {"kind": "simulated"}
    if path.suffix == ".toml":
        return _written(path)
    if _DRIVER.fullmatch(words) and not path.exists():
        return {"kind": "plugin", "factory": words}
    if "://" in words or not path.exists():
        raise SettingsError(f"--source {words!r:.200}: there is no such file; {_FORMS}")
    return _recording(path.absolute(), join, answers, machine, speed)


def _is_line(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _expected(join: JoinFile) -> FeatureSpec:
    if join.features is None:
        raise SettingsError(
            f"family {join.family} has no release yet, so nobody knows its sensors: publish one (fedge model from-csv), make the join file"
            " again (fedge device add), or name the sensors in a [source] table: --source plc.toml"
        )
    if join.features.kind == "vibration":
        raise SettingsError(
            f"family {join.family} computes its features from {join.features.sample_rate_hz:g} Hz waveforms: --source module:function, a"
            " driver of your own (docs/agent.md), or simulated"
        )
    return join.features


def _columns(join: JoinFile) -> dict[str, Any]:
    spec = _expected(join)
    return {"columns": list(spec.names), **_pace(join, spec)}


def _pace(join: JoinFile, spec: FeatureSpec) -> dict[str, Any]:
    every_s = 1 / spec.sample_rate_hz if spec.sample_rate_hz else join.row_every_s or 1.0
    return {"every_s": every_s, "window_rows": _window_rows(spec)}


def _window_rows(spec: FeatureSpec) -> int:
    return spec.window_samples if spec.kind == "raw" else 1


def _on_a_wire(words: str, join: JoinFile, ca_file: str) -> dict[str, Any]:
    scheme = urlsplit(words).scheme
    if scheme == "modbus":
        raise SettingsError(
            "--source modbus://… does not say which register is which sensor: write a [source] table with [[source.registers]] into a"
            " file, and give --source plc.toml (docs/agent.md, machines on a wire)"
        )
    return _opcua(words, join) if scheme == "opc.tcp" else _mqtt(words, join, ca_file)


def _opcua(words: str, join: JoinFile) -> dict[str, Any]:
    spec, parts = _expected(join), urlsplit(words)
    namespace = parse_qs(parts.query).get("ns", ["2"])[0]
    if not namespace.isdecimal():
        raise SettingsError(f"--source {words!r:.200}: ns is a number, e.g. ?ns=2")
    nodes = {name: f"ns={namespace};s={name}" for name in spec.names}
    return {"kind": "opcua", "url": parts._replace(query="").geturl(), "nodes": nodes, **_pace(join, spec)}


def _mqtt(words: str, join: JoinFile, ca_file: str) -> dict[str, Any]:
    spec, parts = _expected(join), urlsplit(words)
    below = parts.path.strip("/")
    topics = {name: f"{below}/{name}" if below else name for name in spec.names}
    pinned = {"ca_file": ca_file} if parts.scheme == "mqtts" else {}
    return {
        "kind": "mqtt",
        "url": f"{parts.scheme}://{parts.netloc}",
        "topics": topics,
        **pinned,
        **_pace(join, spec),
    }


def _written(path: Path) -> dict[str, Any]:
    found = read_settings(path, _Holder).source
    table: dict[str, Any] = _without_none(msgspec.to_builtins(found, enc_hook=str))
    return table


def _without_none(value: Any) -> Any:
    """TOML has no null: what is not said is left out."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value


def _recording(
    path: Path, join: JoinFile, answers: Mapping[str, str], machine: str | None, speed: float | None
) -> dict[str, Any]:
    from models.recordings.reading import read_machines  # half a second that another source does not need

    spec = join.features and _expected(join)
    try:
        reading = read_machines([path], answers={**join.answers, **answers})
    except QuestionsOpen:
        raise
    except RecordingError as error:
        raise SettingsError(f"--source: {error}") from None
    names = [found.name for found in reading.machines]
    wanted = machine or (join.device if join.device in names else names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise SettingsError(
            f"{path} holds {len(names)} machines, and this device is one: give --machine, one of {listed(names)}"
        )
    columns = list(spec.names if spec else reading.sensors)
    if lacking := [name for name in columns if name not in reading.sensors]:
        raise SettingsError(
            f"{path} has no sensor {listed(lacking)}; family {join.family} is made of {listed(columns)}, and the file has"
            f" {listed(reading.sensors)}: give the recording of such a machine, or rename its columns"
        )
    row_every_s = _row_every_s(path, reading.sample_rate_hz, join, spec)
    window_rows = _window_rows(spec) if spec else 1
    return {
        "kind": "replay",
        "path": str(path),
        "answers": dict(reading.answers),
        "machine": wanted,
        "columns": columns,
        "row_every_s": row_every_s,
        "window_rows": window_rows,
        "speed": speed or _quick(row_every_s * window_rows),
    }


def _row_every_s(path: Path, rate_hz: float | None, join: JoinFile, spec: FeatureSpec | None) -> float:
    made_for_hz = spec.sample_rate_hz if spec else None
    if made_for_hz is not None:
        if rate_hz is not None and not math.isclose(rate_hz, made_for_hz, rel_tol=0.05):
            raise SettingsError(
                f"{path} has {rate_hz:.4g} rows a second, and family {join.family} was made for {made_for_hz:.4g}: resample it, or make a"
                " family of its own"
            )
        return 1 / made_for_hz
    return 1 / rate_hz if rate_hz else join.row_every_s or 1.0


def _quick(window_s: float) -> float:
    """How fast to play windows of so many seconds; 1 where that is quick enough."""
    windows = DetectionSettings().commissioning_windows
    return max(1.0, min(1e6, float(f"{windows * window_s / LEARNT_WITHIN_S:.2g}")))
