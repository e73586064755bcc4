"""How a manifest may be written: each key once, no deep nests, and texts of characters that are seen.

The bounds of what it may say are with its fields (`protocol.manifest`). Here is what a schema cannot tell: a key that is there twice
means one thing to this reader and another to the next, and a name with a line break or an escape code lies to whoever reads it.
"""

from __future__ import annotations

import json
from typing import Any

from protocol.errors import BundleFormatError
from protocol.limits import MAX_NESTING_DEPTH

__all__ = ["check_manifest_text"]


def check_manifest_text(body: bytes) -> None:
    """Refuse a manifest that can be read in two ways, or not by people.

    Raises:
        BundleFormatError: no JSON, a key twice, nested deeper than `MAX_NESTING_DEPTH`, or a character that is not seen.
    """
    try:
        _check(json.loads(body, object_pairs_hook=_once), 1)
    except (ValueError, RecursionError) as error:  # of JSON's and of UTF-8's errors the root
        raise BundleFormatError(f"the bundle's manifest is no sound JSON: {str(error)[:200]}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has a key twice, of {[key[:40] for key, _ in pairs][:20]}")
    return found


def _check(value: Any, depth: int) -> None:
    if depth > MAX_NESTING_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_NESTING_DEPTH} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check(key, depth)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, str) and not value.isprintable():
        raise ValueError(f"the text {value[:80]!r} holds a character that is not seen")
