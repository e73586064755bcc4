"""Units of measure as headers write them, and the seconds in a unit of time."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["TIME_UNITS", "is_unit", "unit_of_name", "unit_of_time"]

_UNITS: Final = frozenset(
    [
        "%",
        "%rh",
        "-",
        "--",
        "1",
        "°c",
        "°f",
        "°k",
        "c",
        "f",
        "k",
        "degc",
        "degf",
        "deg_c",
        "deg",
        "°",
        "rad",
        "rpm",
        "1/min",
        "min-1",
        "u/min",
        "hz",
        "khz",
        "mhz",
        "rad/s",
        "s",
        "ms",
        "us",
        "µs",
        "μs",
        "ns",
        "min",
        "h",
        "d",
        "sec",
        "m",
        "mm",
        "cm",
        "km",
        "µm",
        "um",
        "μm",
        "nm",
        "in",
        "ft",
        "mil",
        "m/s",
        "km/h",
        "mm/s",
        "mm/s²",
        "m/s²",
        "m/s2",
        "m/s^2",
        "g",
        "mg",
        "gn",
        "in/s",
        "ft/s",
        "mph",
        "kn",
        "pa",
        "hpa",
        "kpa",
        "mpa",
        "bar",
        "mbar",
        "psi",
        "psig",
        "psia",
        "atm",
        "torr",
        "mmhg",
        "inhg",
        "a",
        "ma",
        "ka",
        "µa",
        "ua",
        "v",
        "mv",
        "kv",
        "w",
        "kw",
        "mw",
        "mvar",
        "var",
        "kvar",
        "va",
        "kva",
        "wh",
        "kwh",
        "mwh",
        "j",
        "kj",
        "mj",
        "nm",
        "n",
        "kn",
        "n·m",
        "l",
        "l/s",
        "l/min",
        "l/h",
        "m³",
        "m3",
        "m³/h",
        "m3/h",
        "m³/s",
        "kg",
        "kg/s",
        "kg/h",
        "t",
        "t/h",
        "g/s",
        "gal",
        "gpm",
        "scfm",
        "ppm",
        "ppb",
        "ph",
        "db",
        "dba",
        "lx",
        "lux",
        "ohm",
        "kohm",
        "mohm",
        "ω",
        "s/m",
        "ms/cm",
        "µs/cm",
        "us/cm",
        "count",
        "counts",
        "cnt",
        "bool",
        "bit",
        "raw",
        "none",
        "n/a",
        "degrees",
        "celsius",
        "volt",
        "volts",
        "amp",
        "amps",
        "ampere",
        "seconds",
        "yyyy-mm-dd",
        "dd.mm.yyyy",
        "hh:mm:ss",
        "utc",
        "date",
        "time",
        "iso",
        "datetime",
        "timestamp",
        "string",
        "text",
        "real",
        "int",
        "float",
    ]
)
TIME_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}
_SPELT: Final = {
    "nanoseconds": "ns",
    "nanos": "ns",
    "microseconds": "us",
    "micros": "us",
    "usec": "us",
    "milliseconds": "ms",
    "millis": "ms",
    "msec": "ms",
    "seconds": "s",
    "second": "s",
    "secs": "s",
    "sec": "s",
    "sekunden": "s",
    "minutes": "min",
    "mins": "min",
    "minuten": "min",
    "hours": "h",
    "hrs": "h",
    "hr": "h",
    "stunden": "h",
    "days": "d",
}


def is_unit(cell: str) -> bool:
    """Is `cell` a unit, or something in brackets as units are?

    >>> is_unit("mm/s"), is_unit("[bar]"), is_unit("Pressure")
    (True, True, False)
    """
    text = cell.strip()
    return text.casefold() in _UNITS or (len(text) <= 14 and bool(re.fullmatch(r"\[.*\]|\(.*\)", text)))


def unit_of_name(name: str) -> str:
    """The unit that a column's name says in brackets, or at its end where it is one of time.

    >>> unit_of_name("Temp [°C]"), unit_of_name("time_ms"), unit_of_name("elapsed seconds"), unit_of_name("speed")
    ('°C', 'ms', 's', '')
    """
    if (found := re.fullmatch(r"[^\[(]*[\[(]\s*([^\])]{1,12}?)\s*[\])]\s*", name)) is not None:
        return _SPELT.get(found[1].casefold(), found[1])
    last = re.split(r"[_\s./-]+", name.strip())[-1].casefold()
    if last in _SPELT:
        return _SPELT[last]
    return last if last in TIME_UNITS and last != name.strip().casefold() else ""


def unit_of_time(text: str) -> str:
    """The unit of time that `text` spells, "" for none.

    >>> unit_of_time("[sec]"), unit_of_time("Minutes"), unit_of_time("bar")
    ('s', 'min', '')
    """
    word = text.strip("[]() .").casefold()
    return _SPELT.get(word, word if word in TIME_UNITS else "")
