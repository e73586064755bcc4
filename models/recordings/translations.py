"""Text that is no table as it stands, made one line by line: LabVIEW's measurement files, Ignition's data sets, JSON lines.

::

    blocks of whole lines ─► `translation_of` what they begin with ─► blocks of whole lines of a table

Lines stay where they are, so that a message names the file's own: what is no row becomes an empty line. Only JSON lines get one in front,
the names. What a table cannot hold (channels with clocks of their own, lists within an object) is refused with its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from models.errors import RecordingError
from models.recordings.recording import listed, shown

__all__ = ["Translation", "translation_of"]

Blocks = Iterator[tuple[int, bytes]]
_KEYS_FROM_LINES: Final = 400
_MOST_DEPTH: Final = 8
_END: Final = "***End_of_Header***"
_SEPARATORS: Final = {"tab": "\t", "comma": ",", "semicolon": ";"}


class Translation(Protocol):
    """`note` is said of every file it was used for."""

    note: str

    def __call__(self, blocks: Blocks) -> Blocks:
        """(number of its first line, whole lines) in the same form; raises RecordingError with the line of what no table can hold."""
        ...


def translation_of(path: Path, head: bytes) -> Translation | None:
    """What makes a table of a text that begins with `head`; None where it needs nothing."""
    start = head.lstrip()
    if start.startswith(b"LabVIEW Measurement"):
        return _LabviewLines(path, head)
    first = start.split(b"\n", 1)[0].strip()
    if first.strip(b'"') == b"#NAMES":
        return _IgnitionLines()
    if first.lstrip(b'"').startswith(b"VarName"):
        return _WinccLines()
    if start.startswith(b"{") and first.endswith(b"}") and _object_of(first) is not None:
        return _JsonLines(path, head)
    return None


def _object_of(line: bytes) -> _Object | None:
    try:
        found = json.loads(
            line, parse_float=_Number, parse_int=_Number, parse_constant=str, object_pairs_hook=_Object
        )
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, _Object) else None


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _Object(dict[str, object]):
    """An object of JSON, and whether one of its names stands in it twice."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.has_twins = len(self) < len(pairs)


# --- JSON lines -----------------------------------------------------------------------------------------------------------------------


class _JsonLines:
    note = "it holds a JSON object in each line; their names stand for a line before the first"

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        names: dict[str, None] = {}
        for number, line in enumerate(head.split(b"\n")[:_KEYS_FROM_LINES], 1):
            if (found := _object_of(line.strip())) is not None:
                names |= dict.fromkeys(self._flat(found, number))
        self._names = tuple(names)

    def __call__(self, blocks: Blocks) -> Blocks:
        yield 1, (",".join(map(_quoted, self._names)) + "\n").encode()
        for first, block in blocks:
            lines = block.split(b"\n")[:-1]
            rows = [self._row(line.strip(), first + k) for k, line in enumerate(lines)]
            yield first + 1, "".join(f"{row}\n" for row in rows).encode()

    def _row(self, line: bytes, number: int) -> str:
        if not line:
            return ""
        found = _object_of(line)
        if found is None:
            # Another number of cells than the table, wherever it is torn: a last line is told there, others are refused.
            text = line.decode("utf-8", "replace").replace(",", " ").replace('"', " ")
            return text if len(self._names) > 1 else f"{text},torn"
        flat = self._flat(found, number)
        if more := flat.keys() - set(self._names):
            raise RecordingError(
                f"{self._path}:{number}: {listed(sorted(more))} stands in no object of the first {_KEYS_FROM_LINES} lines: are there two kinds of messages in "
                f"the file? write each into a file of its own"
            )
        return ",".join(flat.get(name, "") for name in self._names)

    def _flat(self, found: _Object, number: int, above: str = "", depth: int = 0) -> dict[str, str]:
        cells: dict[str, str] = {}
        if found.has_twins:
            raise self._ambiguous(number, above)
        for key, value in found.items():
            if above + key in cells:
                raise self._ambiguous(number, above + key)
            match value:
                case _Object() if depth < _MOST_DEPTH:
                    within = self._flat(value, number, f"{above}{key}.", depth + 1)
                    if cells.keys() & within.keys():
                        raise self._ambiguous(number, above + key)
                    cells |= within
                case None:
                    cells[above + key] = ""
                case bool():
                    cells[above + key] = str(value).lower()
                case _Number():
                    cells[above + key] = str(value)
                case str():
                    cells[above + key] = _quoted(value)
                case _:
                    raise RecordingError(
                        f"{self._path}:{number}: is JSON whose {shown(above + key)} holds a list or an object within; write a line for each moment, with a number for each name"
                    )
        return cells

    def _ambiguous(self, number: int, name: str) -> RecordingError:
        within = f" in {shown(name.rstrip('.'))}" if name else ""
        return RecordingError(
            f"{self._path}:{number}: a name stands twice{within}, and which value holds nobody can tell; write each name once in a line"
        )


def _quoted(text: str) -> str:
    plain = " ".join(text.split())
    return '"' + plain.replace('"', '""') + '"' if any(c in plain for c in ',"') else plain


# --- data sets of Ignition ------------------------------------------------------------------------------------------------------------


class _IgnitionLines:
    note = "it is a data set of Ignition: its lines of types and of how many rows were passed over"

    def __call__(self, blocks: Blocks) -> Blocks:
        is_types = False
        for first, block in blocks:
            rows = []
            for line in block.split(b"\n")[:-1]:
                is_mark = line.lstrip(b'" ').startswith((b"#NAMES", b"#TYPES", b"#ROWS"))
                rows.append(b"" if is_mark or is_types else line)
                is_types = b"#TYPES" in line and is_mark
            yield first, b"".join(row + b"\n" for row in rows)


# --- logs of WinCC --------------------------------------------------------------------------------------------------------------------


class _WinccLines:
    note = "it is a log of WinCC: its lines that tell when the runtime was off ($RT_OFF$) were passed over"

    def __call__(self, blocks: Blocks) -> Blocks:
        for first, block in blocks:
            rows = [b"" if row.lstrip(b'"').startswith(b"$RT_") else row for row in block.split(b"\n")[:-1]]
            yield first, b"".join(row + b"\n" for row in rows)


# --- LabVIEW measurement files --------------------------------------------------------------------------------------------------------


class _LabviewLines:
    note = "it is a measurement file of LabVIEW: X_Value counts seconds (time), and comments in rows were left out"

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        settings = _settings(head.decode("utf-8", "replace").split(_END, 1)[0])
        self._mark = settings.get("Separator", "Tab").strip().lower()
        self._separator = _SEPARATORS.get(self._mark, "\t")
        self._decimal = settings.get("Decimal_Separator", "")
        self._x_columns = settings.get("X_Columns", "One").strip().lower()
        self._names: tuple[str, ...] = ()
        self._channels: dict[str, list[str]] = {}

    def __call__(self, blocks: Blocks) -> Blocks:
        self._place, self._channels, self._at = "file", {}, 0
        self._names = ()
        for first, block in blocks:
            lines = block.decode("utf-8", "replace").split("\n")[:-1]
            rows = [self._line(line.rstrip("\r"), first + k) for k, line in enumerate(lines)]
            yield first + 1, "".join(f"{row}\n" for row in rows).encode()

    def _line(self, line: str, number: int) -> str:
        cells = line.split(self._separator)
        key = cells[0].strip()
        if key == _END:
            self._place = "channels" if self._place == "file" else "names"
        elif self._place in {"rows", "names"} and key == "Channels":
            self._place, self._channels = "channels", {key: cells[1:]}
        elif self._place == "channels" and key == "X_Value":
            return self._named(cells, number)
        elif self._place == "channels":
            self._channels[key] = cells[1:]
        elif self._place == "names":
            return self._named(cells, number)
        elif self._place == "rows" and any(cell.strip() for cell in cells):
            return self._row(cells, number)
        return ""

    def _named(self, cells: list[str], number: int) -> str:
        """The names of a stretch of rows; those of the first stand for all."""
        kinds = {kind.strip() for kind in self._channels.get("X_Dimension", []) if kind.strip()}
        if kinds - {"Time"}:
            raise RecordingError(
                f"{self._path}:{number}: its X_Dimension is {listed(sorted(kinds))}, no time; a recording has a row for each moment"
            )
        names = [cell.strip() for cell in cells]
        if names and names[-1] == "Comment":
            names.pop()
        self._kept = [place for place, name in enumerate(names) if place == 0 or name != "X_Value"]
        self._clocks = [place for place in range(1, len(names)) if names[place] == "X_Value"]
        self._start, self._step = (
            self._one("X0", number, names),
            self._one("Delta_X", number, names),
        )
        if self._x_columns == "no" and self._step <= 0:
            raise RecordingError(
                f"{self._path}:{number}: has neither a column of times nor a Delta_X above 0"
            )
        found = ("time (s)", *(names[place] for place in self._kept[1:]))
        self._place, self._at = "rows", 0
        if not self._names:
            self._names = found
            return self._separator.join(found)
        if found != self._names:
            raise RecordingError(
                f"{self._path}:{number}: other channels ({listed(found[1:])}) than above ({listed(self._names[1:])}); cut the file there into two recordings"
            )
        return ""

    def _one(self, key: str, number: int, names: list[str]) -> float:
        """What all channels with samples have for X0 or Delta_X."""
        counts = self._channels.get("Samples", [])
        told = [
            cell.strip().replace(",", ".")
            for place, cell in enumerate(self._channels.get(key, []))
            if cell.strip() and not (place < len(counts) and counts[place].strip() == "0")
        ]
        if len(set(told)) > 1 and (self._x_columns == "no" or names.count("X_Value") > 1):
            raise RecordingError(
                f"{self._path}:{number}: its channels have clocks of their own ({key} {listed(told)}); write those of one clock into a file"
            )
        try:
            return float(told[0]) if told else 0.0
        except ValueError:
            raise RecordingError(f"{self._path}:{number}: {key} {shown(told[0])} is no number") from None

    def _row(self, cells: list[str], number: int) -> str:
        found = [cells[place].strip() if place < len(cells) else "" for place in self._kept]
        times = [cells[place].strip() for place in self._clocks if place < len(cells)]
        if self._x_columns != "no" and any(time not in {"", found[0]} for time in times):
            raise RecordingError(
                f"{self._path}:{number}: its channels have clocks of their own (X_Value {listed([found[0], *times])}); write those of one clock into a file"
            )
        if self._x_columns == "no":
            has_comma = self._decimal == "," or (not self._decimal and any("," in cell for cell in found))
            x = f"{self._start + self._at * self._step:.12g}"
            found[0] = x.replace(".", ",") if has_comma else x
            self._at += 1
        return self._separator.join(found)


def _settings(head: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split("\n"):
        key, _, value = line.partition("\t") if "\t" in line else line.partition(",")
        found.setdefault(key.strip(), value.strip().rstrip("\r"))
    return found
