"""Asks two worlds that differ in one window thousands of informed questions, and prints every difference of what leaves.

    python tests/attacks/differential.py [--questions 10000] [--seed 1] [--processes 2]

Three of four are asked of devices without limits of parameters. Exit code 0 means that there was none. The last line is the figure of `docs/proofs.md`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "attacks")]

from two_worlds import Found, compare, without_parameter_limits  # noqa: E402 - found on the path that was made above


def main() -> int:
    """Compare; returns the exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--questions", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = options.parse_args()
    share = -(-chosen.questions // chosen.processes)
    started = time.monotonic()
    with ProcessPoolExecutor(chosen.processes) as pool:
        parts = list(
            pool.map(_compare, [share] * chosen.processes, range(chosen.seed, chosen.seed + chosen.processes))
        )
    for difference in (difference for part in parts for difference in part.differences):
        print(difference)
    questions, sums = sum(part.questions for part in parts), sum(part.sums for part in parts)
    found = sum(len(part.differences) for part in parts)
    codes = {words for part in parts for words in part.refusals}
    print(
        f"{found} differences outside masked vectors over {questions} questions, {sums} of which ended in a sum;"
        f" {len(codes)} refusals reached ({(time.monotonic() - started) / 60:.1f} min)"
    )
    return 1 if found else 0


def _compare(questions: int, seed: int) -> Found:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        with without_parameter_limits():
            found = compare(Path(folder) / "without", 3 * questions // 4, seed=seed)
        limited = compare(Path(folder) / "with", questions - found.questions, seed=seed)
    return Found(
        questions=found.questions + limited.questions,
        sums=found.sums + limited.sums,
        differences=found.differences + limited.differences,
        refusals=found.refusals | limited.refusals,
    )


if __name__ == "__main__":
    sys.exit(main())
