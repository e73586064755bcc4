"""Which test reaches which line, and how long it takes: one run of an area's tests under coverage, kept per test file.

A mutant is tried with the tests that run its statement. What runs at import (a limit, a default, a field of a struct) belongs to
every test that runs anything of its module, and, where a module holds nothing but limits, of the modules that import it.
"""

import ast
import hashlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest

PRODUCT = (
    "runtime",
    "protocol",
    "service",
    "models",
    "edge_agent",
    "aggregator",
    "fleet",
    "fedge",
    "simulations",
)


@dataclass
class Reach:
    """What one test runs: its seconds, and the lines of each product file."""

    seconds: float
    lines: dict[str, set[int]] = field(default_factory=dict)


class Recorder:
    """A pytest plugin that notes for each passing test its duration and its lines."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._coverage = coverage.Coverage(
            data_file=None, include=[f"{root}/{name}/*" for name in PRODUCT], config_file=False
        )
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._skipped: set[str] = set()

    @property
    def failed(self) -> set[str]:
        """The tests that fail without any mutant, and therefore say nothing."""
        return self._failed

    def start(self) -> None:
        """Begin before the first module of ours is imported."""
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Give the test its own context."""
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        result = yield
        self._seconds[item.nodeid] = time.process_time() - began
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what fails, in any phase, and what is skipped."""
        if not report.passed:
            (self._skipped if report.skipped else self._failed).add(report.nodeid)

    def reached(self) -> dict[str, Reach]:
        """Stop, and return what each passing test ran."""
        self._coverage.stop()
        data = self._coverage.get_data()
        reached = {
            test: Reach(seconds)
            for test, seconds in self._seconds.items()
            if test not in self._failed | self._skipped
        }
        for file in data.measured_files():
            path = str(Path(file).relative_to(self._root))
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    if context in reached:
                        reached[context].lines.setdefault(path, set()).add(line)
        return reached


class ReachFile:
    """The kept runs: a test file is run again when it, a helper beside it or a product file that it runs has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}

    def stale(self, tests: list[Path]) -> list[Path]:
        """The test files that must be run again."""
        return [
            test
            for test in tests
            if str(test) not in self._kept or self._kept[str(test)]["key"] != self._key(test)
        ]

    def keep(self, tests: list[Path], reached: dict[str, Reach]) -> None:
        """Keep what the run of `tests` reached."""
        for test in tests:
            rows = {
                name: [reach.seconds, {path: sorted(lines) for path, lines in reach.lines.items()}]
                for name, reach in reached.items()
                if name.split("::")[0] == str(test)
            }
            self._kept[str(test)] = {"tests": rows}
            self._kept[str(test)]["key"] = self._key(test)
        self._path.write_text(json.dumps(self._kept))

    def reached(self, tests: list[Path]) -> dict[str, Reach]:
        """All tests of these files."""
        return {
            name: Reach(seconds, {path: set(numbers) for path, numbers in lines.items()})
            for test in tests
            for name, (seconds, lines) in self._kept[str(test)]["tests"].items()
        }

    def _key(self, test: Path) -> str:
        beside = [*test.parent.glob("*.py"), *Path("tests").glob("*.py")]
        helpers = sorted(file for file in beside if not file.name.startswith("test_"))
        product = sorted({path for _, lines in self._kept[str(test)]["tests"].values() for path in lines})
        return _digest([test, *helpers, *map(Path, product)])


def tests_for(
    path: str, line: int, reached: dict[str, Reach], *, budget_s: float, at_import: tuple[str, ...]
) -> list[str]:
    """The tests that run the statement at `line` of `path`, the nearest and quickest first, together at most `budget_s`.

    `at_import` are the test files that are asked for everything that runs at import, package by package.
    """
    name = ".".join(Path(path).with_suffix("").parts)
    statement = _statement(path, line)
    able = {
        test
        for test, reach in reached.items()
        if statement and reach.lines.get(path, set()).intersection(statement)
    }
    near = {file: name in Path(file).read_text() for file in {test.split("::")[0] for test in reached}}
    if not able:  # it runs at import, perhaps in a function that a module's constants are made with
        packages = {
            test: test.partition("[")[2].rstrip("]") or "protocol"
            for test in reached
            if test.startswith(at_import)
        }
        able = {test for test, reach in reached.items() if path in reach.lines} or _tests_of_importers(
            path, reached
        )
        # A test that compares a struct or a constant with its literal runs no line of the module.
        able |= {test for test in reached if near[test.split("::")[0]]}
        able |= {test for test, package in packages.items() if f"{name}.".startswith(f"{package}.")}
    by_file = defaultdict(list)
    for test in able:
        by_file[test.split("::")[0]].append(test)
    chosen, spent = [], 0.0
    for file in sorted(
        by_file,
        key=lambda file: (
            file not in at_import,
            not near[file],
            min(reached[test].seconds for test in by_file[file]),
            file,
        ),
    ):
        for test in sorted(by_file[file], key=lambda test: (reached[test].seconds, test)):
            if not chosen or spent + reached[test].seconds <= budget_s:
                chosen.append(test)
                spent += reached[test].seconds
    return chosen


def _statement(path: str, line: int) -> range | None:
    """The lines of the innermost statement at `line`, or None where it runs when the module is imported."""
    found: tuple[range, bool] | None = None

    def visit(node: ast.AST, *, inside: bool) -> None:
        nonlocal found
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                first = min([child.lineno, *(each.lineno for each in getattr(child, "decorator_list", []))])
                body = getattr(child, "body", None)
                last = body[0].lineno - 1 if isinstance(body, list) else child.end_lineno or child.lineno
                if first <= line <= max(first, last):
                    found = range(first, max(first, last) + 1), inside
                visit(child, inside=inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))
            else:
                visit(child, inside=inside)

    visit(ast.parse(Path(path).read_text()), inside=False)
    return found[0] if found and found[1] else None


def _tests_of_importers(path: str, reached: dict[str, Reach]) -> set[str]:
    package, _, module = ".".join(Path(path).with_suffix("").parts).rpartition(".")
    texts = (f"{package}.{module} import", f"import {package}.{module}", f"from {package} import {module}")
    importers = {
        str(file)
        for name in PRODUCT
        for file in Path(name).rglob("*.py")
        if any(text in file.read_text() for text in texts)
    }
    return {
        test
        for test, reach in reached.items()
        if importers.intersection(reach.lines)
        or any(text in Path(test.split("::")[0]).read_text() for text in texts)
    }


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes() if file.exists() else b""
        digest.update(str(file).encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:16]
