"""Runs tests while every core is busy with something else: what is green here does not live from a quiet machine.

    python tests/under_load.py [--times 2] [PYTEST ARGUMENTS ...]          (make test-loaded)

The load are endless loops, `--times` as many as there are cores, started before the tests and ended by their ids afterwards. With
one a core the tests get about half of the machine, with two a third.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = ("-n", "auto", "--dist", "loadscope", "--no-loadscope-reorder", "tests")


def main() -> int:
    """Load the machine, run pytest, and return its exit code."""
    options = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--times", type=int, default=1, help="busy processes a core")
    chosen, arguments = options.parse_known_args()
    command = [sys.executable, "-m", "pytest", "-q", *(arguments or EVERYTHING)]
    count = chosen.times * (os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    started = time.monotonic()
    try:
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
    finally:
        for process in busy:
            process.kill()
            process.wait()
    outcome = "green" if code == 0 else f"exit code {code}"
    print(f"under load of {count} busy processes: {outcome} in {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
