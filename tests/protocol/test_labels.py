"""What a text from outside may hold, to the last sign: "$" in a pattern lets one line end pass, and must not."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.labels import Label, Labels, OneLine

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "edge_agent", "aggregator", "fleet", "service", "models", "runtime")


def patterns() -> list[tuple[str, str]]:
    """(place, pattern) of each `msgspec.Meta(pattern=…)` that is written out where it stands."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for node in ast.walk(ast.parse(text)) if "pattern=" in text else ():
                if not isinstance(node, ast.Call) or "Meta" not in ast.unparse(node.func):
                    continue
                found += [
                    (f"{path.relative_to(ROOT)}:{node.lineno}", str(keyword.value.value))
                    for keyword in node.keywords
                    if keyword.arg == "pattern" and isinstance(keyword.value, ast.Constant)
                ]
    return found


def test_no_pattern_of_a_message_lets_a_line_end_pass_at_its_end() -> None:
    known = patterns()
    assert len(known) > 8, "or the test finds nothing"
    open_ended = [place for place, pattern in known if re.search(r"(?<!\\)\$$", pattern)]
    assert open_ended == []


@pytest.mark.parametrize("kind", [Label, OneLine])
@pytest.mark.parametrize(
    "text",
    [
        "a\n",
        "\n",
        "a\nb",
        "a\r",
        "\0",
        "\x7f",
        "\x85",
        "\u2028",
        "\u202e",
        "\u2066",
        "\u200d",
        "\ufeff",
        "<",
        "a>b",
    ],
)
def test_what_people_do_not_see_or_browsers_read_is_no_line(kind: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, kind)


def test_a_line_has_at_most_200_signs_and_a_device_at_most_32_labels() -> None:
    assert msgspec.convert("x" * 200, OneLine) == "x" * 200
    assert msgspec.convert("", Label) == ""
    for unfit, kind in (("x" * 201, Label), ("", OneLine)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(unfit, kind)
    labels = {str(number): "" for number in range(33)}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(labels, Labels)
    labels.popitem()
    assert msgspec.convert(labels, Labels) == labels
