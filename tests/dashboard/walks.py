"""The walks of docs/operations.md, read from the page and played as it says: a step is a line of its numbered list.

In a step **bold** is clicked (a link or a button whose name holds these words), `code` is typed into the field whose label stands in
"quotation marks" before it, *italic* must be on screen afterwards, and a key in [brackets] is pressed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chromium_viewer import await_aggregator
from playwright.sync_api import Locator, Page, expect

__all__ = ["Walk", "play", "read_walks"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "operations.md"
_SENDING: Final = frozenset("tfu")
"""Keys that send a form; what comes next happens on the page that answers it."""

_DEED: Final = re.compile(
    r"\*\*(?P<click>[^*]+)\*\*|\[(?P<key>[A-Za-z])\]|\"(?P<label>[^\"]+)\"[^`*\n]*`(?P<text>[^`]+)`|\*(?P<see>[^*]+)\*"
)


@dataclass(frozen=True)
class Walk:
    """A section of the document: its title and its steps."""

    title: str
    steps: tuple[str, ...]


def read_walks() -> dict[str, Walk]:
    """The document's sections that have numbered steps, by title."""
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    walks = {}
    for section in sections:
        title, _, text = section.partition("\n")
        steps = re.findall(r"^\d+\. (.+(?:\n   .+)*)", text, re.MULTILINE)
        if steps:
            walks[title] = Walk(title, tuple(" ".join(step.split()) for step in steps))
    return walks


def play(page: Page, step: str) -> None:
    """Do what a step says, in its order."""
    for deed in _DEED.finditer(step):
        page.wait_for_load_state("load")
        await_aggregator(page)
        if deed["click"]:
            _clickable(page, deed["click"]).click()
        elif deed["key"]:
            _press(page, deed["key"].lower())
        elif deed["label"]:
            page.get_by_label(deed["label"]).fill(deed["text"])
        else:
            expect(page.get_by_text(deed["see"]).filter(visible=True).first).to_be_visible()


def _press(page: Page, key: str) -> None:
    if key not in _SENDING:
        page.keyboard.press(key)
        return
    with page.expect_navigation():
        page.keyboard.press(key)


def _clickable(page: Page, name: str) -> Locator:
    words = re.compile(rf"\b{re.escape(name)}", re.IGNORECASE)
    button, link = (page.get_by_role(role, name=words) for role in ("button", "link"))  # type: ignore[arg-type]
    return button.or_(link).filter(visible=True).first
