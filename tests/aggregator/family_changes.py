"""Families for tests: as a file would give them, and with some keys changed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import msgspec

from aggregator.rounds.family import FamilySettings

S = TypeVar("S", bound=msgspec.Struct)


def family(name: str = "pump", **tables: object) -> FamilySettings:
    """A family from its tables, checked as when they are read."""
    return msgspec.convert(msgspec.to_builtins({"name": name, **tables}), FamilySettings)


def changed(settings: S, **changes: Any) -> S:
    """The same settings with other values; a key in a table is written ``table__key``."""
    inside: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, value in changes.items():
        table, _, key = path.partition("__")
        inside[table][key] = value
    return msgspec.structs.replace(
        settings,
        **{
            table: values[""] if "" in values else changed(getattr(settings, table), **values)
            for table, values in inside.items()
        },
    )
