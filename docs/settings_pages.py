"""Pages of every setting, made from the structs that the programs read: key, what is valid, default, why."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from runtime.key_paths import KeyPath, dotted
from runtime.settings import CONFIG_FILE
from runtime.settings_messages import valid_at

__all__ = ["settings_page"]


def settings_page(program: str, kind: type[Struct], prefix: str) -> str:
    """The page of one program's settings, as Markdown."""
    lines = [
        f"# Settings of {program}",
        "",
        f"Each key of the file, in its table; `{prefix}` and the key in capitals, tables joined by `__`, sets it from",
        f"the environment: `{prefix}STATE_DIR`. The environment goes over the file; tables in lists come by file only.",
    ]
    for path, table in _tables(kind, ()):
        heading = f"[{dotted(path)}]" if path else "Top of the file"
        lines += [
            "",
            f"## {heading}",
            "",
            inspect.getdoc(table) or "",
            "",
            "| key | valid | default | |",
            "|---|---|---|---|",
        ]
        reasons = _reasons(table)
        for field in msgspec.structs.fields(table):
            if field.name != CONFIG_FILE and not list(_structs(field.type)):
                valid = valid_at((field.encode_name,), table).removeprefix("expected ").replace("|", "\\|")
                lines.append(
                    f"| `{field.encode_name}` | {valid} | {_default(field)} | {reasons.get(field.name, '')} |"
                )
    return "\n".join(lines) + "\n"


def _tables(kind: type[Struct], path: KeyPath) -> Iterator[tuple[KeyPath, type[Struct]]]:
    yield path, kind
    for field in msgspec.structs.fields(kind):
        for inner in _structs(field.type):
            tag = inner.__struct_config__.tag
            name = field.encode_name + (f' with {inner.__struct_config__.tag_field} = "{tag}"' if tag else "")
            yield from _tables(inner, (*path, name))


def _structs(kind: Any) -> Iterator[type[Struct]]:
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
    elif get_origin(kind) is not dict:
        for part in get_args(kind):
            yield from _structs(part)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is NODEFAULT:
        return "" if field.default_factory is NODEFAULT else f"`{field.default_factory()!r}`"
    return "none" if field.default is None else f"`{field.default!r}`"


def _reasons(table: type[Struct]) -> dict[str, str]:
    """The sentence under each field."""
    lines = next(
        n
        for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(table))))
        if isinstance(n, ast.ClassDef)
    ).body
    return {
        before.target.id: " ".join(str(after.value.value).split()).replace("|", "\\|")
        for before, after in itertools.pairwise(lines)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
