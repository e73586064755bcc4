"""The site of `make docs`: every warning is an error, and what the pages name exists."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = "runtime|protocol|models|service|edge_agent|aggregator|fleet|simulations|fedge"


@pytest.mark.slow
@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (
        "architecture",
        "reference/protocol.secure_sum",
        "reference/fleet-api",
        "reference/aggregator-api",
    ):
        assert (tmp_path / "site" / page / "index.html").is_file()


def named_objects() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    return sorted(set(re.findall(rf"`((?:{OURS})(?:\.\w+)+)`", text)))


def test_everything_that_the_architecture_names_can_be_imported() -> None:
    for name in named_objects():
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            try:
                found: object = importlib.import_module(".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[end:]:
                assert hasattr(found, attribute), f"docs/architecture.md names {name}, which does not exist"
                found = getattr(found, attribute)
            break
        else:
            raise AssertionError(f"docs/architecture.md names {name}, which does not exist")
