"""What the house weighs: modules, lines, statements, the longest module, arguments and docstrings of each product package.

    python tests/house/figures.py [CHECKOUT] [--json]

Statements are the nodes of the syntax tree that are statements, docstrings left out: a number that neither comments nor line
breaks move. Docstring density is lines of docstrings in 100 lines. Arguments are all that a caller can give; `self` and
`cls` are not. Migrations are left out: they are written once and never read again.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (
    "runtime",
    "protocol",
    "models",
    "service",
    "edge_agent",
    "aggregator",
    "fleet",
    "fedge",
    "simulations",
)
MAXIMUM_ARGUMENTS: Final = 10
MAXIMUM_LINES: Final = 400

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one package, or of all."""

    package: str
    modules: int
    lines: int
    statements: int
    longest_module: str
    longest_lines: int
    maximum_arguments: int
    docstring_lines_per_100: float


def modules_of(package: str, root: Path = ROOT) -> list[Path]:
    """Its modules, sorted; empty for a package that this checkout does not have."""
    return sorted(path for path in (root / package).rglob("*.py") if "versions" not in path.parts)


def functions_of(module: Path) -> Iterator[tuple[int, str, int]]:
    """(line, name, number of arguments) of each function in a module."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, Definition):
            yield node.lineno, node.name, count_arguments(node)


def count_arguments(function: Definition) -> int:
    """How many arguments a caller can give; ``*args`` and ``**options`` count as one each."""
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    bound = 1 if named[:1] in (["self"], ["cls"]) else 0
    return len(named) - bound + (given.vararg is not None) + (given.kwarg is not None)


def weigh(name: str, modules: list[Path], root: Path) -> Figures:
    """The figures of `modules` under `name`."""
    texts = {module: module.read_text(encoding="utf-8") for module in modules}
    lines = {module: text.count("\n") for module, text in texts.items()}
    statements, documented = 0, 0
    for text in texts.values():
        tree = ast.parse(text)
        docstrings = list(_docstrings(tree))
        statements += sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) - len(docstrings)
        documented += sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in docstrings)
    longest = max(lines, key=lines.__getitem__)
    return Figures(
        package=name,
        modules=len(modules),
        lines=sum(lines.values()),
        statements=statements,
        longest_module=str(longest.relative_to(root)),
        longest_lines=lines[longest],
        maximum_arguments=max((count for m in modules for *_, count in functions_of(m)), default=0),
        docstring_lines_per_100=round(100 * documented / sum(lines.values()), 1),
    )


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            yield node.body[0]


def main() -> None:
    """Print a table, or JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("checkout", nargs="?", type=Path, default=ROOT)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    root: Path = chosen.checkout.resolve()
    found = {package: modules for package in PACKAGES if (modules := modules_of(package, root))}
    rows = [weigh(package, modules, root) for package, modules in found.items()]
    rows.append(weigh("all", [module for modules in found.values() for module in modules], root))
    long = sorted(
        (
            (count, f"{module.relative_to(root)}:{line} {name}")
            for modules in found.values()
            for module in modules
            for line, name, count in functions_of(module)
            if count > MAXIMUM_ARGUMENTS
        ),
        reverse=True,
    )
    if chosen.json:
        packages = [asdict(row) for row in rows]
        over = [{"function": where, "arguments": count} for count, where in long]
        print(json.dumps({"packages": packages, "functions_over_the_limit": over}, indent=1))
        return
    print(
        f"{'package':<12}{'modules':>8}{'lines':>8}{'statements':>12}{'arguments':>11}{'docs/100':>10}  longest module"
    )
    for row in rows:
        print(
            f"{row.package:<12}{row.modules:>8}{row.lines:>8}{row.statements:>12}{row.maximum_arguments:>11}"
            f"{row.docstring_lines_per_100:>10}  {row.longest_module} ({row.longest_lines})"
        )
    for count, where in long:
        print(f"{count} arguments, {MAXIMUM_ARGUMENTS} are allowed: {where}")


if __name__ == "__main__":
    main()
