"""Proves that a device needs the `edge` extra alone: builds that environment and runs the agent's tests in it.

    python tests/edge_environment/prove.py [--fresh]

The environment lies in ``.venv-edge`` and is built anew when pyproject.toml or constraints.txt changed (or with --fresh).
Flower is added without its declared dependencies, which are the server's. pytest, pytest-timeout and hypothesis are added
to run the tests; what must be absent is looked for after that. Exit code 0 means proved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from typing import Final

from edge_packages import CONSTRAINTS, FLOWER, ROOT, TEST_TOOLS, edge_tests, fingerprint, last_words

ENVIRONMENT: Final = ROOT / ".venv-edge"
PYTHON: Final = ENVIRONMENT / "bin" / "python"
STAMP: Final = ENVIRONMENT / "built-from"
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
        if not module.name.startswith("models.export") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def main() -> int:
    """Build, look, import, test; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fresh", action="store_true", help="build the environment anew")
    started = time.monotonic()
    try:
        build(is_fresh=options.parse_args().fresh)
        run_inside("-c", CHECK_ABSENT, *ABSENT)
        say(f"absent, as promised: {', '.join(ABSENT)}")
        count = run_inside("-c", IMPORT_ALL).strip()
        say(f"all {count} modules of protocol, models (without export) and edge_agent import")
        files = edge_tests()
        say(f"running the edge tests of {len(files)} files")
        code = subprocess.run(
            [PYTHON, "-m", "pytest", "-q", "-m", "edge", "-p", "no:cacheprovider", *files],
            cwd=ROOT,
            env=environment(),
            check=False,
        ).returncode
    except subprocess.CalledProcessError as error:
        say("not proved: " + (last_words([error.stdout, error.stderr]) or str(error)))
        return 1
    say(f"{'proved' if code == 0 else 'not proved'} in {time.monotonic() - started:.0f} s")
    return code


def build(*, is_fresh: bool) -> None:
    """Make the environment, unless it was made from the same files."""
    wanted = fingerprint(sys.version)
    if not is_fresh and STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    say(f"building {ENVIRONMENT.name} from the edge extra (once; a few minutes on a slow line)")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True, capture_output=True, text=True)
    constrained = ("-c", str(CONSTRAINTS))
    pip("install", *constrained, "-e", f"{ROOT}[edge]")
    pip("install", "--no-deps", FLOWER)
    pip("install", *constrained, *TEST_TOOLS)
    packages = run_inside("-m", "pip", "list", "--format=freeze").count("==")
    size_bytes = sum(path.lstat().st_size for path in ENVIRONMENT.rglob("*") if path.is_file())
    say(f"{packages} packages, {size_bytes / 1e6:.0f} MB")
    STAMP.write_text(wanted, encoding="utf-8")


def pip(*arguments: str) -> str:
    """Run pip inside the environment, quietly."""
    return run_inside("-m", "pip", "-q", "--disable-pip-version-check", *arguments)


def run_inside(*arguments: str) -> str:
    """Run the environment's Python and return what it printed; raises CalledProcessError."""
    return subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, env=environment(), check=True, capture_output=True, text=True
    ).stdout


def environment() -> dict[str, str]:
    """The caller's environment without anything that would let packages from elsewhere in."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-edge: {line}", flush=True)  # noqa: T201 - a program for people


if __name__ == "__main__":
    sys.exit(main())
