"""The rules of the house, checked: format, lint, types, import direction, module length, whose names ours are."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "fedge",
    "runtime",
    "protocol",
    "models",
    "service",
    "edge_agent",
    "aggregator",
    "fleet",
    "simulations",
)
MODULES = sorted(
    p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if "versions" not in p.parts
)


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_code_is_formatted() -> None:
    run(tool("ruff"), "format", "--check", "-q", ".")


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "-q", ".")


def test_mypy_strict_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_only_point_down() -> None:
    run(tool("lint-imports"), "--no-cache")


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_is(module: Path) -> None:
    text = module.read_text()
    assert text.count("\n") <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module begins with its docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_name_is_ours_and_resolves_inside_the_checkout(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)
    owners = importlib.metadata.packages_distributions().get(package, ["fedge"])
    assert set(owners) == {"fedge"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_readme(package: str) -> None:
    assert (ROOT / package / "README.md").is_file()


def test_every_lint_exception_gives_its_reason() -> None:
    bare = re.compile(r"#\s*(noqa: [A-Z0-9, ]+|type: ignore\[[a-z\-, ]+\])\s*$|#\s*(noqa|type: ignore)\s*$")
    found = [
        f"{p.relative_to(ROOT)}:{n}"
        for p in MODULES
        for n, line in enumerate(p.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert not found


def test_ci_calls_the_readmes_test_command() -> None:
    command = next(
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")
    )
    assert f"`{command}`" in (ROOT / "README.md").read_text()


def test_importing_a_package_runs_nothing() -> None:
    for package in PACKAGES:
        tree = ast.parse((ROOT / package / "__init__.py").read_text())
        assert all(
            isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign | ast.ImportFrom) for node in tree.body
        )
