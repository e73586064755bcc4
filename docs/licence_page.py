"""The licences of everything that an installation of ours brings along: `python docs/licence_page.py > docs/licences.md`.

It is read from the metadata of what is installed here, in the versions of constraints.txt, for Linux on x86-64 and Python 3.11.
What a licence asks of who passes the package on, its own text says; this page is the list of them and no advice.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fleet.device_bundle.licences import licence_of

ROOT: Final = Path(__file__).parents[1]
MACHINES: Final = ("edge", "fleet", "aggregator", "sim", "pkcs11", "opcua", "modbus", "export", "kafka")
WITHOUT_DEPENDENCIES: Final = {"edge": "flwr"}
"""What a device adds with ``pip install --no-deps``: docs/decisions/0002."""

PLATFORM: Final = {
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
HEAD: Final = """# Licences of what Fedge brings along

Fedge is under Apache-2.0 ([LICENSE](../LICENSE)). Each machine installs what its extra of pyproject.toml needs; below is
all of it, with what follows from it, by the packages' own metadata: for Linux on x86-64 and Python 3.11, in the versions
of constraints.txt; "not said" is what a package leaves out. `python docs/licence_page.py > docs/licences.md` writes this
page anew, and a test sees that it is true.

Tools of our own development (`dev`, `torch`, `mlflow`) are not passed on to anybody and are not listed.

"""


def main() -> str:
    """The page."""
    wanted: dict[str, set[str]] = {}
    for machine in MACHINES:
        for name in closure(f"fedge[{machine}]") | {WITHOUT_DEPENDENCIES.get(machine, "numpy")}:
            wanted.setdefault(name, set()).add(machine)
    wanted.pop("fedge")
    licences = {name: licence_of(distribution(name).metadata) for name in wanted}
    counts = {licence: list(licences.values()).count(licence) for licence in set(licences.values())}
    lines = ["| licence | packages |", "|---|---|"]
    lines += [
        f"| {licence} | {count} |" for licence, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    ]
    lines += ["", "| package | licence | installed on |", "|---|---|---|"]
    for name in sorted(wanted):
        on = (
            "all"
            if wanted[name] >= {"edge", "fleet", "aggregator"}
            else ", ".join(m for m in MACHINES if m in wanted[name])
        )
        lines.append(f"| {name} | {licences[name]} | {on} |")
    return HEAD + "\n".join(lines) + "\n"


def closure(requirement: str) -> set[str]:
    """Every package that `requirement` brings, itself included."""
    found: set[str] = set()
    seen: set[str] = set()  # with its extras
    waiting = [Requirement(requirement)]
    while waiting:
        present = waiting.pop()
        name = canonicalize_name(present.name)
        key = f"{name}{sorted(present.extras)}"
        if key in seen:
            continue
        seen.add(key)
        found.add(name)
        waiting += needs(name, present.extras)
    return found


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What a package needs directly, with these extras, on that platform; of ours, what pyproject.toml says now."""
    if name == "fedge":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = project["dependencies"] + [
            line for extra in extras for line in project["optional-dependencies"][extra]
        ]
    else:
        lines = distribution(name).requires or []
    environment = {key: str(value) for key, value in default_environment().items()} | PLATFORM
    for line in lines:
        needed = Requirement(line)
        if needed.marker is None or any(
            needed.marker.evaluate({**environment, "extra": extra}) for extra in extras or {""}
        ):
            yield needed


if __name__ == "__main__":
    try:
        sys.stdout.write(main())
    except PackageNotFoundError as error:
        sys.exit(
            f"{error.name} is not installed here: this page is made where the extra `dev` is (make setup)"
        )
