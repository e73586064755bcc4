"""The table of what is mutated names files that are there: a renamed module must not slip out of `make mutants`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("areas", ROOT / "tests" / "mutants" / "areas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("area", table().AREAS, ids=lambda area: area.name)
def test_everything_that_an_area_names_is_there(area) -> None:
    for glob in (*area.code, *area.tests, *table().AT_IMPORT):
        assert list(ROOT.glob(glob)), f"tests/mutants/areas.py: {glob!r} matches no file"
