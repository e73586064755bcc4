"""Pages of every setting, made from the structs that the programs read: key, what is valid, default, why."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
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
    example = f"{prefix}{kind.__struct_fields__[0].upper()}"
    lines = [
        f"# Settings of {program}",
        "",
        f"Each key of the file, in its table; `{prefix}` and the key in capitals, tables joined by `__`, sets it from",
        f"the environment: `{example}`. The environment goes over the file; tables in lists come by file only.",
    ]
    for path, table in _tables(kind, ()):
        text, reasons = _explained(table)
        heading = f"[{dotted(path)}]" if path else "Top of the file"
        lines += ["", f"## {heading}", "", text, "", "| key | valid | default | |", "|---|---|---|---|"]
        for field in msgspec.structs.fields(table):
            if field.name != CONFIG_FILE and not list(_structs(field.type)):
                valid = valid_at((field.encode_name,), table).removeprefix("expected ").replace("|", "\\|")
                lines.append(
                    f"| `{field.encode_name}` | {valid} | {_default(field)} | {reasons.get(field.name, '')} |"
                )
    return "\n".join(lines) + "\n"


def _explained(table: type[Struct]) -> tuple[str, dict[str, str]]:
    """A struct's docstring without examples, errors and fields, and what is said of each field, there or below it."""
    about = re.split(r"^(?:Raises:|>>> )", inspect.getdoc(table) or "", maxsplit=1, flags=re.MULTILINE)[0]
    reasons = _reasons(table)
    kept, field = [], ""
    for line in about.splitlines():
        found = re.match(r"\s*(\w+): (.*)", line)
        if found and found[1] in table.__struct_fields__:
            field = found[1]
            reasons[field] = found[2]
        elif field and line.strip():
            reasons[field] += " " + line.strip()
        elif line != "Attributes:":
            field = ""
            kept.append(line)
    return "\n".join(kept).strip(), {name: text.replace("|", "\\|") for name, text in reasons.items()}


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
        before.target.id: " ".join(str(after.value.value).split())
        for before, after in itertools.pairwise(lines)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
