"""What ``--source`` says, as tables of agent.toml, with the columns that the family's models expect.

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
from models.features import passthrough_spec
from models.recordings.machines import Reading
from models.recordings.questions import QuestionsOpen
from models.recordings.recording import listed
from models.recordings.suggestions import suggested
from protocol.join_file import JoinFile
from protocol.manifest import FeatureSpec
from runtime.errors import SettingsError
from runtime.settings import read_settings

__all__ = ["source_tables"]

LEARNT_WITHIN_S: Final = 20.0
"""A recording is played so fast that commissioning takes no longer: nobody waits for the past."""
FEWEST_COMMISSIONED: Final = 20
"""A scale on fewer windows is none; see `edge_agent.settings.DetectionSettings`."""
_FORMS: Final = "give a recording (rec.csv), - or a serial port, opc.tcp://…, mqtts://…, module:function, or a file with a [source] table (plc.toml)"
_DRIVER: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class _Holder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: SourceSettings


Tables = dict[str, dict[str, Any]]


def source_tables(
    words: str,
    join: JoinFile,
    *,
    answers: Mapping[str, str],
    machine: str | None,
    speed: float | None,
    ca_file: str,
) -> Tables:
    """``source``, and for a recording ``detection``, as TOML takes them; paths are absolute, but for `ca_file`, which stands as given.

    Raises:
        SettingsError: the words are none of the forms, or the source does not give what the family expects; says what would be valid.
        RecordingError: the recording cannot be read; `QuestionsOpen` where it can be read in several ways.
    """
    path, parts = Path(words).expanduser(), urlsplit(words)
    if words == "-" or _is_line(path):
        where = words if words == "-" else str(path.absolute())
        return {"source": {"kind": "lines", "input": where, **_columns(join)}}
    if parts.scheme in {"opc.tcp", "mqtt", "mqtts", "modbus"}:
        return {"source": _on_a_wire(words, join, ca_file)}
    if words == "simulated":
        return {"source": {"kind": "simulated"}}
    if path.suffix == ".toml":
        return {"source": _written(path)}
    if _DRIVER.fullmatch(words) and not path.exists():
        return {"source": {"kind": "plugin", "factory": words}}
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
    return {"every_s": every_s, "window_rows": spec.window_samples if spec.kind == "raw" else 1}


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
) -> Tables:
    from models.recordings.reading import read_machines  # half a second that another source does not need

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
    spec = join.features or passthrough_spec(reading.sensors)
    columns = _columns_of(path, reading, join, spec)
    row_every_s = _row_every_s(path, reading.sample_rate_hz, join, spec)
    window_rows = 1 if spec.kind == "passthrough" else spec.window_samples
    source = {
        "kind": "replay",
        "path": str(path),
        "answers": dict(reading.answers),
        "machine": wanted,
        "columns": columns,
        "row_every_s": row_every_s,
        "window_rows": window_rows,
        "is_vibration": spec.kind == "vibration",
        "speed": speed or _quick(row_every_s * window_rows),
    }
    return {"source": source, "detection": _detection(reading)}


def _columns_of(path: Path, reading: Reading, join: JoinFile, spec: FeatureSpec) -> list[str]:
    if spec.kind == "vibration":
        if len(reading.sensors) != spec.channels:
            raise SettingsError(
                f"{path} has {len(reading.sensors)} sensors ({listed(reading.sensors)}), and family {join.family} takes {spec.channels} of"
                " acceleration: give the recording of such a machine"
            )
        return list(reading.sensors)
    if lacking := [name for name in spec.names if name not in reading.sensors]:
        raise SettingsError(
            f"{path} has no sensor {listed(lacking)}; family {join.family} is made of {listed(spec.names)}, and the file has"
            f" {listed(reading.sensors)}: give the recording of such a machine, or rename its columns"
        )
    return list(spec.names)


def _row_every_s(path: Path, rate_hz: float | None, join: JoinFile, spec: FeatureSpec) -> float:
    if spec.sample_rate_hz is not None:
        if rate_hz is not None and not math.isclose(rate_hz, spec.sample_rate_hz, rel_tol=0.05):
            raise SettingsError(
                f"{path} has {rate_hz:.4g} rows a second, and family {join.family} was made for {spec.sample_rate_hz:.4g}: resample it, or"
                " make a family of its own"
            )
        return 1 / spec.sample_rate_hz
    return 1 / rate_hz if rate_hz else join.row_every_s or 1.0


def _detection(reading: Reading) -> dict[str, Any]:
    """What `fedge study` and `model from-csv` commission recordings like this one on, where that is not the default."""
    suggestion, usual = suggested(reading), DetectionSettings()
    if suggestion.commissioning_windows < FEWEST_COMMISSIONED or (
        suggestion.commissioning_windows == usual.commissioning_windows
        and suggestion.longest_commissioning == usual.longest_commissioning
    ):
        return {}
    return {
        "commissioning_windows": suggestion.commissioning_windows,
        "commissioning_longest_windows": suggestion.longest_commissioning,
        "reference_windows": suggestion.commissioning_windows,
    }


def _quick(window_s: float) -> float:
    """How fast to play windows of so many seconds; 1 where that is quick enough."""
    windows = DetectionSettings().commissioning_windows
    return max(1.0, min(1e6, float(f"{windows * window_s / LEARNT_WITHIN_S:.2g}")))
