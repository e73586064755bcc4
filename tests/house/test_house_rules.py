"""The rules of the house, checked: format, lint, types, import direction, module length, whose names ours are."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from figures import MAXIMUM_ARGUMENTS, MAXIMUM_LINES, PACKAGES, functions_of, modules_of

ROOT = Path(__file__).resolve().parents[2]
MODULES = [module for package in PACKAGES for module in modules_of(package)]


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_code_is_formatted() -> None:
    run(tool("ruff"), "format", "--check", "-q", ".")


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "-q", ".")


def test_no_benchmark_hides_a_package_of_ours_from_those_beside_it() -> None:
    # `python benchmarks/x.py` finds what lies beside it before what is installed
    assert {path.stem for path in (ROOT / "benchmarks").iterdir()}.isdisjoint(PACKAGES)


@pytest.mark.slow
def test_mypy_strict_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_only_point_down() -> None:
    run(tool("lint-imports"), "--no-cache")


def test_modules_are_short_and_say_what_they_are() -> None:
    texts = {str(module.relative_to(ROOT)): module.read_text() for module in MODULES}
    assert [name for name, text in texts.items() if text.count("\n") > MAXIMUM_LINES] == []
    silent = [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert silent == [], "a module begins with its docstring"


def test_no_function_takes_more_than_ten_arguments() -> None:
    long = {
        f"{module.relative_to(ROOT)} {name}"
        for module in MODULES
        for _, name, count in functions_of(module)
        if count > MAXIMUM_ARGUMENTS
    }
    assert long == set()


def test_the_examples_in_docstrings_are_true() -> None:
    with_examples = [module for module in MODULES if ">>> " in module.read_text()]
    assert len(with_examples) > 10
    for module in with_examples:
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        failed, tried = doctest.testmod(importlib.import_module(name))
        assert tried > 0, f"{name} has examples that are not run"
        assert failed == 0, f"python -m doctest {module.relative_to(ROOT)}"


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
    assert re.search(rf"^{command}\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_importing_a_package_runs_nothing() -> None:
    for package in PACKAGES:
        tree = ast.parse((ROOT / package / "__init__.py").read_text())
        assert all(
            isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign | ast.ImportFrom) for node in tree.body
        )


def test_the_fleets_command_line_starts_without_numpy() -> None:
    script = "import sys, fleet.cli\nprint([m for m in ('numpy', 'fastapi', 'paho') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
