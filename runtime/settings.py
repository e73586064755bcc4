"""The one loader of settings: a TOML file and the environment become one frozen msgspec struct, or a clear refusal.

::

    file ──► TOML ──► environment over it ──► unknown keys? ──► types and ranges ──► the struct's own checks ──► struct
                                                    └────────────── SettingsError: where, what, what would be valid

A variable's name is the program's prefix and the key in capitals, tables joined by ``__``: ``FEDGE_AGENT_MQTT__URL``.
Text is taken as it stands, anything else is read as a TOML value (``true``, ``2.5``, ``["a", "b"]``). Lists of tables
come by file only. Paths are relative to the file, also those of variables. Neither inf nor nan is ever a setting.
What keys mean together is checked by each struct's ``__post_init__``, which raises ValueError with a sentence.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from runtime.errors import Refused, SettingsError
from runtime.key_paths import KeyPath, dotted

__all__ = ["CONFIG_FILE", "GONE", "Paths", "check_document", "load_settings", "read_settings"]

CONFIG_FILE: Final = "config_file"
"""A struct's field of this name is no key: the loader fills in the absolute path of the file."""

GONE: Final = "GONE"
"""A struct's class variable of this name says what became of keys that its table had once: key → a sentence without its full stop."""


class Paths(tuple[Path, ...]):
    """A setting that is one path, or a list of paths: of keys, of which there are two while one takes the other's place."""

    __slots__ = ()


_SERVICE_LINK: Final = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
"""Kubernetes sets FEDGE_AGENT_SERVICE_HOST, FEDGE_AGENT_PORT_8883_TCP and so on beside a Service of that name."""

S = TypeVar("S", bound=Struct)


def read_settings(file: Path, kind: type[S]) -> S:
    """Read and check a TOML file alone: scenarios, plans, family files. Raises as `load_settings`."""
    return load_settings(file, kind, prefix="", environment={})


def load_settings(
    file: Path,
    kind: type[S],
    *,
    prefix: str,
    environment: Mapping[str, str],
    ignored: frozenset[str] = frozenset(),
) -> S:
    """Read and check a program's settings; a variable of the environment goes over the same key of the file.

    Args:
        file: TOML, UTF-8.
        kind: the struct that the whole file describes.
        prefix: of the program's variables, e.g. ``FEDGE_AGENT_``.
        environment: name → text, as `os.environ`; only names that begin with `prefix` are looked at.
        ignored: what follows the prefix in variables that belong to somebody else.

    Raises:
        SettingsError: the file cannot be read or is not TOML; a key or variable is unknown; a value is of another
            type or out of range, or does not go with another. Says file and line or variable, key, value, and what is valid.
    """
    file = file.absolute()
    try:
        text = file.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror or error}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # also a number of thousands of digits, or brackets without end
        raise SettingsError(f"{file} is not valid TOML: {error}") from None
    variables: dict[KeyPath, str] = {}
    for name in sorted(environment):
        key = name.removeprefix(prefix)
        if prefix and key != name and key not in ignored and not _SERVICE_LINK.fullmatch(name):
            variables[_overlay(document, kind, key, name, environment[name])] = name

    def place(path: KeyPath) -> str:
        from runtime.settings_messages import place_of  # Only on the way to an error: the agent stays small.

        return place_of(path, file, text, variables)

    filled = {CONFIG_FILE: str(file)} if CONFIG_FILE in kind.__struct_fields__ else {}
    return check_document(document, kind, place=place, folder=file.parent, filled=filled)


def check_document(
    document: dict[str, Any],
    kind: type[S],
    *,
    place: Callable[[KeyPath], str],
    folder: Path = Path(),
    filled: Mapping[str, object] = MappingProxyType({}),
) -> S:
    """Make the struct of a document that was read already, e.g. from the JSON of a request.

    Args:
        document: keys and values.
        kind: the struct that the whole document describes.
        place: says in a refusal where a key stands.
        folder: to which paths are relative.
        filled: fields of the struct that are no keys of the document.

    Raises:
        SettingsError: as `load_settings`.
    """
    for path, table, described in _tables(document, kind, ()):
        valid = _fields(described, table)
        for key, value in table.items():
            if valid and key not in valid:
                raise _unknown(place((*path, key)), key, path, set(valid), described)
            if isinstance(value, float) and not math.isfinite(value):
                name = dotted((*path, key))
                sentence = f"{name} = {value} is not valid: give a finite number"
                refused = Refused(field=name, value=str(value), allowed="a finite number")
                raise SettingsError(f"{place((*path, key))}: {sentence}").about(refused)
    document = {**document, **filled}
    try:
        return msgspec.convert(document, kind, dec_hook=lambda wanted, value: _path(wanted, value, folder))
    except msgspec.ValidationError as error:
        from runtime.settings_messages import explain

        path, sentence, refused = explain(str(error), document, kind)
        raise SettingsError(f"{place(path)}: {sentence}").about(refused) from None


def _overlay(document: dict[str, Any], kind: object, key: str, name: str, text: str) -> KeyPath:
    """Put one variable into the document; returns where."""
    table, parts = document, key.lower().split("__")
    for depth, part in enumerate(parts):
        path = tuple(parts[:depth])
        valid = _fields(kind, table)
        if valid is not None and part not in valid:
            raise _unknown(name, part, path, set(valid), kind)
        if valid is None and not _is_mapping(kind):
            raise SettingsError(f"{name}: {dotted(path)} is no table, so nothing can be set inside it")
        kind = _value_type(kind) if valid is None else valid[part]
        if _holds_tables_in_a_list(kind):
            raise SettingsError(
                f"{name}: [[{dotted((*path, part))}]] are tables in a list; give them in the file"
            )
        if depth < len(parts) - 1:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise SettingsError(
                    f"{name}: {dotted((*path, part))} is no table, so nothing can be set inside it"
                )
    table[parts[-1]] = text if _takes_text(kind, text) else _toml_value(name, dotted(tuple(parts)), text)
    return tuple(parts)


def _toml_value(name: str, key: str, text: str) -> object:
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        document = {}
    if set(document) != {"value"}:
        from runtime.settings_messages import shown

        raise SettingsError(
            f'{name} = {shown(key, text)} is no TOML value for {key}: write it as in the file, e.g. true, 2.5 or ["a", "b"]'
        )
    return document["value"]


def _tables(value: object, kind: object, path: KeyPath) -> Iterator[tuple[KeyPath, dict[Any, Any], object]]:
    """Every table and list below `value` with its type."""
    if isinstance(value, dict):
        fields = _fields(kind, value)
        yield path, value, kind
        for key, inner in value.items():
            yield from _tables(
                inner, _value_type(kind) if fields is None else fields.get(key, object), (*path, key)
            )
    elif isinstance(value, list):
        yield path, dict(enumerate(value)), object
        for index, inner in enumerate(value):
            yield from _tables(inner, _value_type(kind), (*path, index))


def _unknown(place: str, key: str, path: KeyPath, valid: set[str], kind: object) -> SettingsError:
    from runtime.settings_messages import nearest, unknown_key

    became = next((struct.GONE[key] for struct in _structs(kind) if key in getattr(struct, "GONE", {})), None)
    words = f"unknown key {dotted((*path, key))!r}; {became or nearest(key, path, valid)}"
    return SettingsError(f"{place}: {words}").about(unknown_key(key, path, valid))


def _path(wanted: type, value: object, folder: Path) -> object:
    if wanted is Path and isinstance(value, str) and value:
        return folder / value
    texts = [value] if isinstance(value, str) else value
    if wanted is Paths and isinstance(texts, list) and texts and all(t and isinstance(t, str) for t in texts):
        return Paths(folder / text for text in texts)
    expected = "a path (text)" if wanted is Path else "a path (text), or a list of paths"
    raise TypeError(f"expected {expected}, got {value!r}")


def _members(kind: object) -> list[Any]:
    """The alternatives of a type, without Annotated, NewType and None."""
    while get_origin(kind) is Annotated or hasattr(kind, "__supertype__"):
        kind = getattr(kind, "__supertype__", None) or get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return [member for part in get_args(kind) for member in _members(part)]
    return [] if kind is type(None) else [kind]


def _structs(kind: object) -> list[Any]:
    return [m for m in _members(kind) if isinstance(m, type) and issubclass(m, Struct)]


def _fields(kind: object, table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Key → type of the struct that `table` describes; None where its type is no struct."""
    structs = _structs(kind)
    if not structs:
        return None
    tag_field = structs[0].__struct_config__.tag_field
    chosen = [
        s for s in structs if len(structs) == 1 or s.__struct_config__.tag == table.get(tag_field or "")
    ]
    # A wrong or missing tag is reported by the decoder; until then every alternative's keys go.
    found = {
        f.encode_name: f.type
        for s in chosen or structs
        for f in msgspec.structs.fields(s)
        if f.name != CONFIG_FILE
    }
    return found if tag_field is None else {**found, tag_field: str}


def _is_mapping(kind: object) -> bool:
    return any(get_origin(member) is dict or member is dict for member in _members(kind))


def _value_type(kind: object) -> object:
    """What a list, tuple or dict holds; object where it does not say."""
    return next(
        (get_args(m)[-1 if get_origin(m) is dict else 0] for m in _members(kind) if get_args(m)), object
    )


def _holds_tables_in_a_list(kind: object) -> bool:
    return any(
        get_origin(m) in {list, tuple} and _fields(_value_type(m), {}) is not None for m in _members(kind)
    )


def _takes_text(kind: object, text: str) -> bool:
    return any(
        m is str
        or (m is Paths and not text.startswith("["))
        or (isinstance(m, type) and issubclass(m, (Path, str)))
        or (get_origin(m) is Literal and all(isinstance(choice, str) for choice in get_args(m)))
        for m in _members(kind)
    )
