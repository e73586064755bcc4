"""The sentences of `runtime.settings`: where a key stands, what was found there, and what would be valid.

Imported on the way to a refusal only. Secrets are never shown: neither values of keys that are named for one, nor the
user and password inside an address.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import inspect

from runtime.errors import Refused
from runtime.key_paths import KeyPath, dotted

__all__ = ["bounded", "explain", "key_lines", "nearest", "place_of", "shown", "unknown_key", "valid_at"]

UNITS: Final = {
    "s": "seconds",
    "ms": "milliseconds",
    "bytes": "bytes",
    "hz": "hertz",
    "c": "degrees Celsius",
    "pct": "percent",
    "windows": "windows",
    "rows": "rows",
    "devices": "devices",
    "share": "a share of 1",
    "fraction": "a share of 1",
}
"""What the last word of a key says about its unit."""

LONGEST_VALUE: Final = 200
"""Characters of a value in a message: it may be a whole request that somebody sent."""

_SECRET: Final = re.compile(r"(password|secret|token|passphrase|database_url)(\[\d+\])*$")
_USER_IN_ADDRESS: Final = re.compile(r"(?<=://)\S*@")
_SECRET_INSIDE: Final = re.compile(
    r"((?:password|secret|token|passphrase)['\"]?\s*[:=]\s*['\"]?)[^\s'\"&,}]+"
)


def place_of(path: KeyPath, file: Path, text: str, variables: Mapping[KeyPath, str]) -> str:
    """The variable that set `path` or something in it, else file and line of it or of the nearest table around it."""
    lines = key_lines(text)
    inside = sorted(name for key, name in variables.items() if path and key[: len(path)] == path)
    if inside and path not in lines:
        return ", ".join(inside)
    for end in range(len(path), 0, -1):
        if path[:end] in variables:
            return variables[path[:end]]
        if path[:end] in lines:
            return f"{file}:{lines[path[:end]]}"
    return ", ".join([str(file), *([] if path else sorted(variables.values()))])


def key_lines(text: str) -> dict[KeyPath, int]:
    r"""The line, from 1, of each table and key of a valid TOML text; a key inside a value has its value's first line.

    >>> key_lines("a = 1\n[[b]]\nc = [\n1]\n[b.d]\ne.f = 2")[("b", 0, "d", "e", "f")]
    6
    """
    lines: dict[KeyPath, int] = {}
    tables: dict[KeyPath, int] = {}  # how many tables a list of tables has by now
    where: KeyPath = ()
    statement, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not statement and line.strip()[:1] in {"", "#"}:
            continue
        first = first or number
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on in the next line
        if statement.lstrip().startswith("["):
            where = _header(parsed, tables)
            lines.setdefault(where, first)
        else:
            for path in _paths(parsed):
                lines.setdefault((*where, *path), first)
        statement, first = "", 0
    return lines


def explain(message: str, document: Mapping[str, Any], kind: type) -> tuple[KeyPath, str, Refused]:
    """Turn "Expected `int` >= 5, got … - at `$.outbox.in_flight`" into a key path and a sentence, and the same for programs."""
    reason, _, place = message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    path = _parsed(place.rstrip("`"))
    value: Any = document
    for part in path:
        value = _entry(value, part)
    reason = reason[:1].lower() + reason[1:]
    missing = re.fullmatch(r"object missing required field `(.+)`", reason)
    key = dotted(path)
    if missing:
        name = f"{key + '.' if key else ''}{missing[1]}"
        allowed = valid_at((*path, missing[1]), kind).removeprefix("expected ") or None
        return path, f"{name} is missing; it has no default", Refused(field=name, allowed=allowed)
    # msgspec does not say which entry of a table with free keys it means: "$.labels[...]"
    tells = reason.startswith(("expected", "invalid")) and "[...]" not in place
    valid = valid_at(path, kind) if tells else ""
    choices = choices_at(path, kind) if tells else []
    refused = Refused(
        field=key or "$",
        value=bounded(key, value),
        allowed=choices or (valid or reason).removeprefix("expected "),
        nearest=_near(value, choices),
    )
    if isinstance(value, dict) or value is None:
        return path, f"[{key}] {valid or reason}" if key else reason, refused
    return path, f"{key} = {shown(key, value)} is not valid: {valid or reason}", refused


def unknown_key(key: str, path: KeyPath, valid: set[str]) -> Refused:
    """What a program may read of a key that is none of the `valid` ones; not its value, which may be a secret under a wrong name."""
    near = difflib.get_close_matches(key, sorted(valid), n=1, cutoff=0.5)
    return Refused(
        field=dotted((*path, key))[:LONGEST_VALUE],
        allowed=sorted(valid),
        nearest=dotted((*path, near[0])) if near else None,
    )


def nearest(key: str, path: KeyPath, valid: set[str]) -> str:
    """The valid key that was probably meant, or all of them."""
    near = unknown_key(key, path, valid).nearest
    return f"did you mean {near!r}?" if near else f"valid here: {', '.join(sorted(valid)) or 'none'}"


def bounded(key: str, value: object) -> object:
    """A value as an answer may repeat it: a number or truth as it is, anything else as text cut short; None for a secret."""
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1e300):
        return value
    if _SECRET.search(key):
        return None
    text = shown(key, value)
    return text[1:-1] if isinstance(value, str) and text[-1] != "…" else text


def shown(key: str, value: object) -> str:
    """A value as a message may show it."""
    if _SECRET.search(key):
        return "…"
    text = _SECRET_INSIDE.sub(r"\1…", _USER_IN_ADDRESS.sub("…@", repr(value)))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def choices_at(path: KeyPath, kind: type) -> list[str]:
    """The words that may stand at `path`, where they are few."""
    found = _type_at(path, kind)
    if isinstance(found, list):
        return found
    choices: list[object] = []
    for member in () if found is None else _alternatives(found):
        if isinstance(member, inspect.LiteralType):
            choices += member.values
        elif isinstance(member, inspect.EnumType):
            choices += [choice.value for choice in member.cls]
    return [str(choice) for choice in choices]


def _near(value: object, choices: list[str]) -> str | None:
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5) if isinstance(value, str) else []
    return near[0] if near else None


def _type_at(path: KeyPath, kind: type) -> inspect.Type | list[str] | None:
    """What `kind` says of `path`: a type, the tags one of which must stand there, or nothing."""
    found: inspect.Type = inspect.type_info(kind)
    for part in path:
        structs = [member for member in _alternatives(found) if isinstance(member, inspect.StructType)]
        if part in {struct.tag_field for struct in structs}:
            return [str(struct.tag) for struct in structs]
        inner = [step for member in _alternatives(found) for step in _inside(member, part)]
        if not inner:
            return None
        found = inner[0]
    return found


def valid_at(path: KeyPath, kind: type) -> str:
    """What may stand at `path`: "expected", kind of value, range, unit; empty where the type does not tell."""
    found = _type_at(path, kind)
    if found is None:
        return ""
    if isinstance(found, list):
        return "expected one of " + ", ".join(map(repr, found))
    sentences = dict.fromkeys(_described(member) for member in _alternatives(found))
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    unit = UNITS.get(name.rpartition("_")[2], "")
    return "expected " + " or ".join(filter(None, sentences)) + (f" ({unit})" if unit else "")


def _alternatives(found: inspect.Type) -> Iterator[inspect.Type]:
    while isinstance(found, inspect.Metadata):
        found = found.type
    if isinstance(found, inspect.UnionType):
        for member in found.types:
            yield from _alternatives(member)
    elif not isinstance(found, inspect.NoneType):
        yield found


def _inside(found: inspect.Type, part: str | int) -> Iterator[inspect.Type]:
    match found:
        case inspect.StructType():
            yield from (f.type for f in found.fields if f.encode_name == part)
        case inspect.DictType():
            yield found.value_type
        case inspect.TupleType():
            yield from found.item_types[part : int(part) + 1] if isinstance(part, int) else ()
        case inspect.ListType() | inspect.VarTupleType():
            yield found.item_type


def _described(found: inspect.Type) -> str:  # noqa: PLR0911 - one return a kind of value
    match found:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(found)}"
        case inspect.FloatType():
            return f"a number{_range(found)}"
        case inspect.LiteralType():
            return "one of " + ", ".join(repr(value) for value in found.values)
        case inspect.EnumType():
            return "one of " + ", ".join(repr(member.value) for member in found.cls)
        case inspect.StrType():
            return (
                "text"
                + _length(found, "characters")
                + (f" that matches {found.pattern}" if found.pattern else "")
            )
        case inspect.ListType() | inspect.VarTupleType():
            inner = " or ".join(_described(member) for member in _alternatives(found.item_type))
            return f"a list{_length(found, 'entries')} of {inner}"
        case inspect.TupleType():
            return f"a list of {len(found.item_types)} values"
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case inspect.BytesType():
            return f"base64{_length(found, 'bytes')}"
        case inspect.CustomType():
            return "a path (text)"
        case _:
            return ""


def _range(found: inspect.IntType | inspect.FloatType) -> str:
    bounds = {"at least": found.ge, "above": found.gt, "at most": found.le, "below": found.lt}
    said = [f"{words} {bound:.15g}" for words, bound in bounds.items() if bound is not None]
    return " " + " and ".join(said) if said else ""


def _length(
    found: inspect.StrType | inspect.BytesType | inspect.ListType | inspect.VarTupleType, unit: str
) -> str:
    low = f"at least {found.min_length}" if found.min_length else ""
    high = f"at most {found.max_length}" if found.max_length is not None else ""
    return f" of {' and '.join(filter(None, (low, high)))} {unit}" if low or high else ""


def _entry(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) else None


def _parsed(place: str) -> KeyPath:
    return tuple(
        int(index) if index.isdigit() else name or index.strip("'\"")
        for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", place)
        if index != "..."
    )


def _header(parsed: dict[str, Any], tables: dict[KeyPath, int]) -> KeyPath:
    """The path of a ``[table]`` or ``[[table]]`` line; tables in lists are counted."""
    path: KeyPath = ()
    value: Any = parsed
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        path = (*path, key)
        if isinstance(value, list):
            tables[path] = tables.get(path, 0) + 1
            value = value[0]
        if path in tables:
            path = (*path, tables[path] - 1)
    return path


def _paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))
