"""What travels between machines is held fast field by field: type, range, default. Any difference is a decision, not a slip.

After a deliberate change, write the golden file anew with ``python tests/protocol/test_schemas.py`` and look at its diff: a
range that became narrower, or a field without a default, refuses what older machines send.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import protocol
from protocol.messages.envelope import Event

pytestmark = pytest.mark.edge
GOLDEN = Path(__file__).parent / "golden" / "schemas.v1.txt"


def schema_lines() -> Iterator[str]:
    """One line for each struct of `protocol` and one for each of its fields."""
    for module in pkgutil.walk_packages(protocol.__path__, "protocol."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            is_struct = inspect.isclass(kind) and issubclass(kind, msgspec.Struct)
            if not is_struct or kind.__module__ != module.name or kind is Event:  # which travels as `_Wire`
                continue
            schema = without_descriptions(msgspec.json.schema_components([kind])[1][name])
            required, fields = schema.pop("required", []), schema.pop("properties", {})
            yield f"{module.name}.{name} {json.dumps(schema, ensure_ascii=False)}"
            for field, rule in fields.items():
                need = "required" if field in required else "optional"
                yield f"    {field} {need} {json.dumps(rule, ensure_ascii=False)}"


def without_descriptions(node: object) -> dict:
    """A schema without what is written for people."""
    if isinstance(node, dict):
        return {
            key: without_descriptions(value)
            for key, value in node.items()
            if key not in {"description", "title"}
        }
    if isinstance(node, list):
        return [without_descriptions(value) for value in node]  # type: ignore[return-value] # inside a dict
    return node  # type: ignore[return-value] # likewise


def test_every_struct_is_the_one_that_was_written_down() -> None:
    assert list(schema_lines()) == GOLDEN.read_text().splitlines()


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in schema_lines()))
