"""What would be published is whole: every file of the packages, metadata, licence; and it runs where no checkout is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from published import ROOT, Published, names_in_sdist, publish, tracked_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {
    pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


def run_unpacked(published: Published, folder: Path, *words: str) -> str:
    """Python with the unpacked wheel in front of the checkout that is installed here, in a folder with nothing in it."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(published.unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_file_of_a_package_is_in_the_wheel_and_nothing_else_is(published: Published) -> None:
    inside = {
        path.relative_to(published.unpacked).as_posix()
        for path in published.unpacked.rglob("*")
        if path.is_file() and ".dist-info" not in path.parts[len(published.unpacked.parts)]
    }
    assert inside == {
        path.as_posix() for path in tracked_files() if path.parts[0] in PACKAGES and len(path.parts) > 1
    }


def test_the_sdist_has_what_a_person_needs_besides_the_code(published: Published) -> None:
    names = names_in_sdist(published.sdist)
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "constraints.txt", "setup.py"} <= names
    deploy = {path.as_posix() for path in tracked_files() if path.parts[0] == "deploy"}
    assert deploy <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_an_index_would_take_both_files_and_show_their_page(published: Published) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", published.wheel, published.sdist],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_is_complete(published: Published) -> None:
    said = published.metadata
    for key in ("Summary", "Keywords", "Requires-Python"):
        assert said[key], key
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE"]
    assert list(published.unpacked.glob("*.dist-info/licenses/LICENSE"))
    urls = {line.split(", ")[0] for line in said.get_all("Project-URL") or []}
    assert urls >= {"Homepage", "Repository", "Documentation", "Changelog", "Issues"}
    supported = SpecifierSet(said["Requires-Python"])
    claimed = {line.rpartition(" ")[2] for line in said.get_all("Classifier") or [] if " :: 3." in line}
    assert claimed == {f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported}


def test_no_link_of_the_page_needs_the_checkout(published: Published) -> None:
    page = published.metadata.get_payload()
    assert isinstance(page, str)
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []
    repository = PROJECT["project"]["urls"]["Repository"]
    ours = [target.removeprefix(repository) for target in targets if target.startswith(repository)]
    for target in ours:
        _, view, version, path = target.split("/", 3)
        assert view in {"raw", "blob"}
        assert version == f"v{PROJECT['project']['version']}"
        assert (ROOT / path.partition("#")[0]).exists(), target


PROGRAM = """
import importlib.metadata, pathlib, sys
import simulations.scenario, fleet.dashboard.rendering, fleet.migrations.upgrade
from fleet.storage.schema import METADATA
from fleet.migrations.upgrade import open_storage
assert simulations.scenario.load_scenario("quick") and simulations.scenario.load_scenario("demo")
open_storage("sqlite:///fleet.sqlite").close()
for name in fleet.dashboard.rendering.HERE.joinpath("templates").iterdir():
    assert name.read_text()
home = pathlib.Path(sys.argv[1])
ours = [m for name, m in sys.modules.items() if name.split(".")[0] in sys.argv[2:] and getattr(m, "__file__", None)]
assert len(ours) > 50, len(ours)
assert [m.__file__ for m in ours if not pathlib.Path(m.__file__).is_relative_to(home)] == []
assert importlib.metadata.distribution("fedge")._path.parent == home
"""


def test_what_code_opens_beside_itself_is_found_without_the_checkout(
    published: Published, tmp_path: Path
) -> None:
    run_unpacked(published, tmp_path, "-c", PROGRAM, str(published.unpacked), *PACKAGES)
    assert (tmp_path / "fleet.sqlite").stat().st_size > 100_000, (
        "migrated from nothing by the wheel's own steps"
    )


def test_the_face_says_its_version(published: Published, tmp_path: Path) -> None:
    assert run_unpacked(published, tmp_path, "-m", "fedge", "--version") == (
        f"fedge {PROJECT['project']['version']}\n"
    )


IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
count = 0
for name in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if not module.name.endswith("__main__") and ".migrations.env" not in module.name and ".versions" not in module.name:
            assert pathlib.Path(importlib.import_module(module.name).__file__).is_relative_to(sys.path[1]), module
            count += 1
print(count)
"""


@pytest.mark.long
def test_every_module_is_imported_from_the_wheel(published: Published, tmp_path: Path) -> None:
    assert int(run_unpacked(published, tmp_path, "-c", IMPORT_ALL, *PACKAGES).splitlines()[-1]) > 800


def test_the_page_of_licences_lists_what_is_installed_on_each_machine() -> None:
    made = subprocess.run(
        [sys.executable, "docs/licence_page.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs/licences.md").read_text(), "python docs/licence_page.py > docs/licences.md"
    assert " GPL" not in made
    assert "AGPL" not in made
