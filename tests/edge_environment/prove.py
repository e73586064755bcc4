"""Proves that a device needs the `edge` extra alone: builds that environment and runs the agent's tests in it.

    python tests/edge_environment/prove.py [--fresh]

The environment lies in ``.venv-edge`` and is built anew when pyproject.toml or constraints.txt changed (or with --fresh).
Flower is added without its declared dependencies, which are the server's. pytest, pytest-timeout and hypothesis are added
to run the tests; what must be absent is looked for after that. Exit code 0 means proved.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Final

from edge_packages import CONSTRAINTS, FLOWER, ROOT, TEST_TOOLS, edge_tests, fingerprint, last_words
from virtual_environment import VirtualEnvironment

ABSENT: Final = (
    "tensorflow",
    "torch",
    "sqlalchemy",
    "fastapi",
    "pydantic",
    "scipy",
    "uvicorn",
    "alembic",
    "structlog",
    "river",
)
"""What a device must do without; the first six are promised in the README."""

CHECK_ABSENT: Final = """
import importlib.util, sys
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
sys.exit(f"found in the edge environment: {', '.join(found)}" if found else 0)
"""

IMPORT_ALL: Final = """
import importlib, pkgutil, sys
import edge_agent, models, protocol
count = 0
for package in (protocol, models, edge_agent):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith(("models.export", "models.torch_")) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def main() -> int:
    """Build, look, import, test; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fresh", action="store_true", help="build the environment anew")
    started = time.monotonic()
    environment = VirtualEnvironment(ROOT / ".venv-edge")
    try:
        environment.build(fingerprint(sys.version), install, say, is_fresh=options.parse_args().fresh)
        environment.run("-c", CHECK_ABSENT, *ABSENT)
        say(f"absent, as promised: {', '.join(ABSENT)}")
        count = environment.run("-c", IMPORT_ALL).strip()
        say(f"all {count} modules of protocol, models (without export and torch) and edge_agent import")
        files = edge_tests()
        say(f"running the edge tests of {len(files)} files")
        is_proved = environment.test(*files)
    except subprocess.CalledProcessError as error:
        say("not proved: " + (last_words([error.stdout, error.stderr]) or str(error)))
        return 1
    say(f"{'proved' if is_proved else 'not proved'} in {time.monotonic() - started:.0f} s")
    return 0 if is_proved else 1


def install(environment: VirtualEnvironment) -> None:
    """The edge extra, Flower without its server, and the test tools."""
    constrained = ("-c", str(CONSTRAINTS))
    environment.install(*constrained, "-e", f"{ROOT}[edge]")
    environment.install("--no-deps", FLOWER)
    environment.install(*constrained, *TEST_TOOLS)


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-edge: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
