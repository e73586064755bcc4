"""What columns are called that are no sensors: clocks, labels, machines, counters, in English and German.

A name alone decides nothing; `models.recordings.roles` holds it against what the column contains.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "CLOCK_NAMES",
    "COUNTER_NAMES",
    "FAULT_WORDS",
    "NORMAL_WORDS",
    "SHORT_CLOCK_NAMES",
    "is_device_name",
    "is_flagged_name",
    "is_label_name",
    "is_score_name",
    "is_state_name",
    "is_target_name",
    "is_time_name",
    "is_variable_name",
    "may_say_normal",
    "part_of_time",
    "says_normal",
    "words_of",
]

CLOCK_NAMES: Final = frozenset([
    "time", "timestamp", "datetime", "date", "clock", "epoch", "elapsed", "uptime", "unixtime", "zeit",
    "zeitstempel", "datum", "uhrzeit", "tijd", "fecha", "hora", "heure", "temps", "tempo", "zeitpunkt",
    "ora", "timestamps", "recorded", "gmtime", "localtime",
])  # fmt: skip
SHORT_CLOCK_NAMES: Final = frozenset(
    [
        "t",
        "ts",
        "utc",
        "seconds",
        "sec",
        "secs",
        "s",
        "ms",
        "millis",
        "us",
        "ns",
        "min",
        "minutes",
        "hours",
        "timems",
        "dt",
        "xvalue",
    ]
)
COUNTER_NAMES: Final = frozenset(
    [
        "index",
        "idx",
        "id",
        "unnamed",
        "seq",
        "sequence",
        "frame",
        "tick",
        "ticks",
        "no",
        "nr",
        "row",
        "rows",
        "line",
        "sample",
        "samples",
        "cycle",
        "cycles",
        "step",
        "record",
        "n",
        "#",
        "i",
        "nummer",
        "counter",
        "count",
        "zähler",
        "rownum",
        "obs",
        "point",
        "packet",
        "entry",
    ]
)
_LABEL: Final = frozenset(
    [
        "label",
        "labels",
        "anomaly",
        "anomalies",
        "anomalous",
        "fault",
        "faulty",
        "faults",
        "failure",
        "failures",
        "incident",
        "incidents",
        "outage",
        "malfunction",
        "breakdown",
        "outlier",
        "attack",
        "is_anomaly",
        "target",
        "class",
        "broken",
        "defect",
        "abnormal",
        "groundtruth",
        "truth",
        "event",
        "fehler",
        "störung",
        "ausfall",
        "anomalie",
        "défaut",
        "defaut",
        "panne",
        "fallo",
        "guasto",
    ]
)
_SCORED: Final = frozenset(["anomaly", "anomalous", "outlier", "label", "labels", "target", "groundtruth"])
_NEGATIONS: Final = frozenset(["no", "not", "non", "without", "free", "kein", "keine", "ohne"])
_EITHER_WAY: Final = frozenset(["valid", "quality", "condition", "health", "status", "state"])
_TARGETS: Final = frozenset(
    [
        "rul",
        "ttf",
        "changepoint",
        "change_point",
        "remaining_useful_life",
        "time_to_failure",
        "days_to_failure",
    ]
)
_SAYS_NORMAL: Final = frozenset(["normal", "healthy", "ok", "good", "valid"])
_FLAGGED: Final = frozenset(
    [
        "alarm",
        "alert",
        "warning",
        "error",
        "trip",
        "flag",
        "status",
        "state",
        "ok",
        "valid",
        "quality",
        "event",
        "condition",
        "health",
    ]
)
_STATES: Final = frozenset(
    [
        "status",
        "state",
        "mode",
        "code",
        "quality",
        "validity",
        "qual",
        "error_code",
        "alarm_code",
        "statuscode",
        "operation",
        "program",
        "programm",
        "betriebsart",
        "zustand",
    ]
)
_DEVICE: Final = frozenset(
    [
        "device",
        "machine",
        "engine",
        "asset",
        "equipment",
        "pump",
        "motor",
        "bearing",
        "turbine",
        "node",
        "host",
        "hostname",
        "vehicle",
        "gerät",
        "maschine",
        "anlage",
        "unit",
        "station",
        "server",
        "robot",
        "deviceid",
        "machineid",
        "assetid",
        "unitnumber",
        "plant",
        "site",
        "sensor_node",
        "well",
        "truck",
        "compressor",
        "gearbox",
        "wt",
    ]
)
_ID: Final = frozenset(["id", "nr", "no", "number", "name", "num", "nummer", "serial", "sn"])
NORMAL_WORDS: Final = frozenset(
    [
        "normal",
        "ok",
        "healthy",
        "good",
        "no",
        "none",
        "0",
        "benign",
        "gut",
        "normalbetrieb",
        "false",
        "nominal",
        "no_fault",
        "nofault",
        "faultfree",
        "pass",
        "passed",
        "i.o.",
    ]
)
FAULT_WORDS: Final = frozenset(
    [
        "anomaly",
        "abnormal",
        "fault",
        "faulty",
        "attack",
        "broken",
        "failure",
        "fail",
        "failed",
        "defect",
        "bad",
        "fehler",
        "störung",
        "anomalous",
        "true",
        "yes",
        "1",
        "nok",
        "not ok",
        "notok",
        "ng",
        "n.i.o.",
    ]
)
_PARTS: Final = {
    "year": "year", "yyyy": "year", "jahr": "year", "yr": "year",
    "month": "month", "mon": "month", "monat": "month", "mm": "month",
    "day": "day", "dd": "day", "tag": "day",
    "hour": "hour", "hours": "hour", "hh": "hour", "stunde": "hour", "hr": "hour",
    "minute": "minute", "minutes": "minute", "minuten": "minute",
    "second": "second", "seconds": "second", "sekunde": "second", "ss": "second",
}  # fmt: skip


def words_of(name: str) -> list[str]:
    """The words of a column's name, however they are parted: time_s, sampleTime, TIME (s)."""
    return [w.lower() for w in re.findall(r"[A-ZÄÖÜ]+(?![a-zäöü])|[A-ZÄÖÜ]?[a-zäöüßé]+|#", name)]


def is_time_name(name: str) -> bool:
    """Does a name say that the column tells the time?"""
    words = words_of(name)
    # Italian for a date, but everybody's word for data: MotorData.ActSpeed.
    is_alone = words in (["data"], ["data", "ora"])
    return is_alone or any(word in CLOCK_NAMES for word in words) or "".join(words) in SHORT_CLOCK_NAMES


def part_of_time(name: str) -> str | None:
    """Which part of a date or time a name says: year, month, day, hour, minute, second."""
    return _PARTS.get("".join(words_of(name)))


def is_label_name(name: str) -> bool:
    """Does a name say that somebody labelled the rows?"""
    words = words_of(name)
    is_one = words == ["y"] or bool(_LABEL & {*words, "".join(words), "_".join(words)})
    return is_one and not is_target_name(name)


def is_score_name(name: str) -> bool:
    """Does a name say that somebody, or a program, has judged the rows already?"""
    return bool(_SCORED & {*words_of(name)})


def is_target_name(name: str) -> bool:
    """Does a name say what is to be foretold, such as the remaining life?"""
    words = words_of(name)
    return bool(_TARGETS & {*words, "".join(words), "_".join(words)})


def says_normal(name: str) -> bool:
    """Does a name say that a 1 is normal operation?"""
    return bool(_SAYS_NORMAL & set(words_of(name)))


def may_say_normal(name: str) -> bool:
    """May the ones of a label with this name be the healthy rows: ``healthy``, ``no_fault``, ``status``?"""
    words = set(words_of(name))
    return says_normal(name) or bool(words & _EITHER_WAY) or bool(words & _NEGATIONS and words & _LABEL)


def is_flagged_name(name: str) -> bool:
    """May a column of few values with this name be a label, or the machine's own?"""
    return bool((_FLAGGED | _SAYS_NORMAL) & set(words_of(name)))


def is_state_name(name: str) -> bool:
    """Does a name say that numbers are codes?"""
    words = words_of(name)
    return bool(_STATES & {*words[-1:], "".join(words)})


def is_device_name(name: str) -> bool:
    """Does a name say that the column tells machines apart?"""
    words = words_of(name)
    if not words:
        return False
    joined = "".join(words)
    rest = [word for word in words if word not in _ID]
    return joined in _DEVICE or (len(rest) == 1 and rest[0] in _DEVICE)


_VARIABLE: Final = frozenset(
    [
        "variable",
        "parameter",
        "tag",
        "tagname",
        "sensor",
        "signal",
        "channel",
        "var",
        "varname",
        "metric",
        "measurement",
        "name",
        "feature",
        "point",
        "quantity",
        "item",
        "attribute",
        "property",
        "field",
        "kind",
        "messgröße",
        "kanal",
        "sensorid",
        "sensorname",
        "param",
        "series",
    ]
)


def is_variable_name(name: str) -> bool:
    """Does a name say that each row of a long table names what it measures?"""
    words = words_of(name)
    rest = [word for word in words if word not in {"id", "name"}]
    return "".join(words) in _VARIABLE or (len(rest) == 1 and rest[0] in _VARIABLE)
