"""Which mutants there are and which of them are tried: cosmic-ray's operators, a seeded sample of places.

A place in the code is drawn first, then one of the operators that fit it: so `a + b`, which has eleven replacements, weighs no
more than a limit, which has two. Left out is only what is no mutant at all: text that does not parse, and text that means the
same to Python (annotations of functions and dataclasses are read by nobody at run time, those of structs are). Equivalent
mutants beyond that stay.
"""

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

# `==` against `is` compares how Python stores a value, which no test of behaviour should know; the other two need arguments.
_UNUSED = ("_Is", "_IsNot", "VariableReplacer", "VariableInserter")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one file: `occurrence` counts where `operator` fits in the file, from 0."""

    path: str
    line: int
    operator: str
    occurrence: int
    source: str

    @property
    def change(self) -> str:
        """The changed lines: `- before` and `+ after`."""
        before = Path(self.path).read_text().splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def sample(files: list[Path], *, count: int, seed: str) -> list[Mutant]:
    """At most `count` different mutants of `files`, the same ones for the same files and seed."""
    places = defaultdict(list)
    for file in sorted(files):
        for operator, occurrence, position in _fits(file.read_text()):
            places[str(file), position].append((operator, occurrence))
    draw = random.Random(seed)
    order = sorted(places)
    draw.shuffle(order)
    mutants = []
    for path, position in order:
        operator, occurrence = draw.choice(places[path, position])
        original = Path(path).read_text()
        try:
            source = mutate_code(original, cosmic_ray.plugins.get_operator(operator)(), occurrence)
        except AttributeError:  # cosmic-ray 8.7.0 cannot replace a dotted name in `except sqlite3.Error`
            continue
        if source is None or not _differs(original, source):
            continue
        mutants.append(
            Mutant(path=path, line=position[0], operator=operator, occurrence=occurrence, source=source)
        )
        if len(mutants) == count:
            break
    return mutants


def _fits(source: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yield (operator, its occurrence, (line, column)) for everything that could be changed in `source`."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in cosmic_ray.plugins.operator_names():
        if name.endswith(_UNUSED):
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        positions = (position for node in nodes for position in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            yield name, occurrence, start


def _differs(original: str, mutated: str) -> bool:
    try:
        return _meaning(original) != _meaning(mutated)
    except SyntaxError:
        return False


def _meaning(source: str) -> str:
    """The syntax tree without what nobody reads at run time."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            for inner in ast.walk(node):
                if isinstance(inner, ast.AnnAssign):
                    inner.annotation = ast.Constant(None)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.ClassDef) and any(
            "dataclass" in ast.unparse(each) for each in node.decorator_list
        ):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    field.annotation = ast.Constant(None)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return ast.dump(tree)
