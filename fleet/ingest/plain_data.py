"""A payload as plain JSON data with every field in it.

On the wire a field that holds its default may be left out; in the database and in the API it is always there.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["plain_data"]


def plain_data(payload: msgspec.Struct) -> dict[str, Any]:
    """Every field of `payload` by name, as numbers, texts, lists and objects."""
    return {name: msgspec.to_builtins(getattr(payload, name)) for name in payload.__struct_fields__}
