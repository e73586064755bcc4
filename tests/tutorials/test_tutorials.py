"""Every tutorial is played from its page, block by block, as a reader would paste them; the page shows what came out."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from plant_ports import port_options
from played_pages import ROOT, check_shown, read_blocks
from shell_people import Person, programs_of

from fleet.plant.running import take_down
from service.plant import load_plant

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))

FEDGE = """#!/bin/sh
[ "$1 $2" = "init plant" ] && set -- "$@" {ports}
exec {command} "$@"
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Person]:
    """Of a tutorial; every port is free whatever else this machine does, and nothing that was started runs afterwards."""
    environment = programs_of(ROOT, tmp_path / "programs")
    fedge = tmp_path / "programs" / "fedge"
    command = fedge.read_text().splitlines()[-1].removeprefix("exec ").removesuffix(' "$@"')
    fedge.write_text(FEDGE.format(ports=" ".join(port_options()), command=command))
    person = Person(tmp_path / "here", environment)
    try:
        yield person
    finally:
        for joined in person.folder.rglob("joined.txt"):
            for pid in re.findall(r"to stop it: kill (\d+)", joined.read_text()):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
        for file in person.folder.rglob("plant.toml"):
            take_down(load_plant(file.parent))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_its_page_and_shows_what_it_printed(page: Path, reader: Person) -> None:
    blocks = read_blocks(page)
    assert len(blocks) >= 2

    def tidy(text: str) -> str:
        return text.replace(str(reader.folder), "…")

    for block in blocks:
        check_shown(page, block, reader.plays(block), tidy=tidy)
