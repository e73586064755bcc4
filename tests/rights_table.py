"""Who may call what, as docs/people.md says it, and a way to ask every route of an application as everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "people.md"
_ROW = re.compile(r"^\| `([A-Z]+) (\S+)` \| (.+) \|$", re.MULTILINE)

Call = tuple[str, str]


def written_rights(service: str, what: str = "call") -> dict[Call, frozenset[str]]:
    """Method and path → who may, of the table that begins with ``| <what> of the <service> |``."""
    table = PAGE.read_text().partition(f"| {what} of the {service} |")[2].partition("\n\n")[0]
    return {(method, path): frozenset(who.split(", ")) for method, path, who in _ROW.findall(table)}


def routes(app: Any, *, verbs: list[str]) -> Iterator[Call]:
    """Every call of an application; the one that takes a verb is as many."""
    yield ("GET", "/v1/openapi.json")
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            if "{verb}" in path:
                yield from ((method.upper(), path.replace("{verb}", verb)) for verb in verbs)
            else:
                yield method.upper(), path


NUMBERS = dict.fromkeys(("number", "version", "anomaly_id", "letter_id", "alert_id", "silence_id"), "7")


def address(path: str, **names: str) -> str:
    """A path with `names` in their places, and in the others something that is not there."""
    return re.sub(r"\{(\w+)\}", lambda match: (NUMBERS | names).get(match[1], "nobody"), path)
