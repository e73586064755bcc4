"""Proves that what a device runs computes on arm64 what it computes here: `make prove-arm64`, as root, ten minutes at most.

    python tests/edge_environment/prove_arm64.py [--root FOLDER] [--fresh] [--only-compare]

    1. a small Debian arm64 root with the edge extra's aarch64 wheels (`arm64_root`; kept for the next time)
    2. the same calculations here and, emulated, on a Cortex-A72 (Raspberry Pi 4) and a Cortex-A76 (Pi 5): one table
    3. the agent's graph, training, detector and learner tests inside the root, as on a Cortex-A72

Emulation shows what is computed, not how fast, and no defect of a particular chip. Exit code 0 means proved.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from arm64_root import CHECKOUT, NotPossibleError, ThisHost, build, enter, require_emulation
from comparison_run import RESULTS, compare_with_this_environment
from edge_packages import edge_tests, last_words

PROCESSORS: Final = ("cortex-a72", "cortex-a76")
SELECTED: Final = ("models/test_*.py", "edge_agent/test_learner_*.py", "edge_agent/test_agent_pipeline.py")
"""Graphs, training, detectors, features, thresholds, bundles; the learner; the pipeline from window to alarm."""
NOT_EMULATED: Final = {
    "test_extraction_is_quick": "a bound on time means nothing under emulation",
}
TIMEOUT_S: Final = 2400
"""Eight times what the tests take on a machine of their own: one that hangs ends some time."""


def main() -> int:
    """Build, compare, test; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--root", type=Path, default=default_folder(), help="where the root is kept")
    options.add_argument("--fresh", action="store_true", help="build the root anew")
    options.add_argument("--only-compare", action="store_true", help="leave the tests out")
    chosen = options.parse_args()
    started = time.monotonic()
    try:
        require_emulation(ThisHost(), say)
        build(chosen.root, say, is_fresh=chosen.fresh)
        say(
            f"root ready after {time.monotonic() - started:.0f} s; computing here and on {' and '.join(PROCESSORS)}"
        )
        is_proved = compare_machines(chosen.root)
        if not chosen.only_compare:
            is_proved = run_tests(chosen.root) and is_proved
    except NotPossibleError as error:
        say(f"not possible here: {error}")
        return 2
    except subprocess.CalledProcessError as error:
        say("not proved: " + (last_words([error.stdout, error.stderr]) or str(error)))
        return 1
    say(f"{'proved' if is_proved else 'not proved'} in {time.monotonic() - started:.0f} s")
    return 0 if is_proved else 1


def default_folder() -> Path:
    """In the user's cache, which outlives a checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fedge" / "arm64"


def compare_machines(folder: Path) -> bool:
    """Compute here and on each processor and print the table; True when every difference is within its bound."""
    exchange = folder / CHECKOUT / "exchange"
    exchange.mkdir()

    def on(processor: str) -> Callable[[str], str]:
        def compute(target: str) -> str:
            inside = [f"/{CHECKOUT}/{RESULTS}", f"/{CHECKOUT}/exchange/{target}", f"/{CHECKOUT}/exchange"]
            command = enter(folder, processor, "/usr/bin/python3", *inside)
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        return compute

    return compare_with_this_environment(exchange, {name: on(name) for name in PROCESSORS}, say)


def run_tests(folder: Path) -> bool:
    """Run the selected tests inside the root; True when they pass."""
    files = edge_tests(*SELECTED)
    say(f"running the edge tests of {len(files)} files on {PROCESSORS[0]}")
    for name, reason in NOT_EMULATED.items():
        say(f"  left out: {name}*: {reason}")
    left_out = " and ".join(f"not {name}" for name in NOT_EMULATED)
    # CI=1 makes hypothesis forget its deadlines, which emulation would miss.
    pytest = ["python3", "-m", "pytest", "-q", "-m", "edge", "-k", left_out, "-p", "no:cacheprovider"]
    command = f"cd /{CHECKOUT} && CI=1 OMP_NUM_THREADS=1 exec {' '.join(map(quote, [*pytest, *files]))}"
    inside = enter(folder, PROCESSORS[0], "/bin/dash", "-c", command)
    try:
        return subprocess.run(inside, check=False, timeout=TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        say(f"the tests did not end within {TIMEOUT_S} s and were stopped")
        return False


def quote(word: str) -> str:
    """For the root's shell."""
    return "'" + word.replace("'", "'\\''") + "'"


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-arm64: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
