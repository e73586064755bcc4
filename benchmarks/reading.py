"""What the honest reader makes of files as people have them, and what 5,000,000 rows cost. One JSON object a line.

    python benchmarks/reading.py [--rows N] [--seeds N]

Kinds of ugly files and their truth come from `tests/models/ugly_files.py`; each is drawn with several seeds. A silent misreading is a
file that was read without a question, and otherwise than it is written. Memory is what a process of its own grew by at its highest
(VmHWM), over the bytes of what it returned: float32 rows and float64 times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "models"))

from ugly_files import KINDS, outcome  # noqa: E402 - the tests' own generator

COLUMNS = 8
MOST_MEMORY = 3.0
LEAST_UNDERSTOOD = 0.8
FORMS = {
    "comma, ISO stamps": (",", "."),
    "semicolon, decimal comma": (";", ","),
}

MEASURE = """
import sys, time
from pathlib import Path
from models.recordings.reading import read_machines
def kib(word):
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(word)).split()[1])
path = Path(sys.argv[1])
read_machines([path.with_name("small.csv")])
Path("/proc/self/clear_refs").write_text("5")
before, start = kib("VmHWM"), time.process_time()
machine = read_machines([path]).machines[0]
seconds = time.process_time() - start
print(len(machine.rows), seconds, (kib("VmHWM") - before) * 1024 / (machine.rows.nbytes + machine.times_s.nbytes))
"""


def report(name: str, value: float, unit: str, bound: float) -> None:
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "bound": bound}), flush=True)


def outcomes(seeds: int) -> None:
    """Shares over all files; those that cannot be understood by anybody (refused or asked by their kind) are counted apart."""
    all_of: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    wrong: list[str] = []
    for kind, make in KINDS.items():
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                case = make(Path(folder), np.random.default_rng(seed))
                found = outcome(case).partition(":")[0]
            all_of[found] += 1
            if case.must == "understood":
                plain[found] += 1
            if found == "misread":
                wrong.append(kind)
    files = sum(all_of.values())
    report(
        f"{len(KINDS)} kinds of files: silent misreadings {sorted(set(wrong))}",
        all_of["misread"],
        f"of {files}",
        0,
    )
    report(
        "files of one meaning that are understood",
        plain["understood"] / sum(plain.values()),
        "share",
        LEAST_UNDERSTOOD,
    )
    for name in ("understood", "asked", "refused"):
        report(
            f"all files, many of them made to be asked or refused: {name}", all_of[name] / files, "share", 0
        )


def write(path: Path, rows: int, delimiter: str, decimal: str) -> None:
    rng = np.random.default_rng(0)
    start = np.datetime64("2026-01-01T00:00:00")
    with path.open("w") as file:
        file.write(delimiter.join(["time", *(f"s{c}" for c in range(COLUMNS))]) + "\n")
        for first in range(0, rows, 50_000):
            count = min(50_000, rows - first)
            stamps = np.datetime_as_string(start + np.arange(first, first + count), unit="s")
            table = rng.normal(50, 10, (count, COLUMNS)).tolist()
            text = "".join(
                f"{stamp.replace('T', ' ')}{delimiter}{delimiter.join([f'{value:.4f}' for value in row])}\n"
                for stamp, row in zip(stamps.tolist(), table, strict=True)
            )
            file.write(text if decimal == "." else text.replace(".", decimal))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--seeds", type=int, default=5)
    chosen = arguments.parse_args()
    outcomes(chosen.seeds)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "small.csv", 50, ",", ".")
        for what, (delimiter, decimal) in FORMS.items():
            path = Path(name) / "x.csv"
            write(path, chosen.rows, delimiter, decimal)
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
            )
            rows, seconds, memory = (float(word) for word in done.stdout.split())
            report(
                f"{what}: {rows:.0f} rows of {COLUMNS} and a clock",
                rows / seconds,
                "rows a processor second",
                0,
            )
            report(f"{what}: peak memory", memory, "times the data", MOST_MEMORY)


if __name__ == "__main__":
    main()
