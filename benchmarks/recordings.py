"""What reading a recording costs: processor seconds and peak memory beside NumPy's own reader on the same file. One JSON object a line.

    python benchmarks/recordings.py [--rows N] [--rounds N]

Each file is read in a process of its own, in turns with its peer; a time is the best of the rounds.
Memory is what the process grew by at its highest (VmHWM), over the float32 table that it returned: both keep the whole table. The
files: numbers alone; a clock in front; every third row with an empty cell; quoted cells; NPZ of float32, stored and packed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COLUMNS = 4
MOST_MEMORY = 3.0
"""The bound: times the table."""

MEASURE = """
import sys, time
from pathlib import Path
import numpy as np
from models.recordings.csv import read_csv
from models.recordings.npz import read_table
def kib(word):
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(word)).split()[1])
path, reader, usecols, quote = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] or None
small = path.with_name("small" + path.suffix)
def ours(path):
    return read_csv(path).rows if path.suffix == ".csv" else read_table(path, key="a").rows
def numpys(path):
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return archive["a"]
    columns = [int(c) for c in usecols.split(",")]
    return np.loadtxt(path, np.float32, delimiter=",", skiprows=1, usecols=columns, quotechar=quote)
read = ours if reader == "ours" else numpys
read(small)
Path("/proc/self/clear_refs").write_text("5")
before, start = kib("VmHWM"), time.process_time()
table = read(path)
seconds = time.process_time() - start
print(seconds, (kib("VmHWM") - before) * 1024 / table.nbytes, *table.shape)
"""


def report(name: str, value: float, unit: str, peer: str, peer_value: float) -> None:
    line = {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        peer: round(peer_value, 4),
        "ratio": round(value / peer_value, 3),
    }
    print(json.dumps(line), flush=True)


def files(folder: Path, rows: int) -> Iterator[tuple[str, Path, str, str]]:
    """(what, path, columns of numbers for np.loadtxt, its quotation mark)."""
    table = np.random.default_rng(0).normal(50, 10, (rows, COLUMNS)).astype(np.float32)
    text = [",".join(f"{value:.6g}" for value in row) for row in table.tolist()]
    header = ",".join("abcd")
    write(folder / "numbers.csv", header, text)
    yield "numbers", folder / "numbers.csv", "0,1,2,3", ""
    stamps = (
        f"2026-01-01 {s // 3600 % 24:02d}:{s // 60 % 60:02d}:{s % 60:02d},{line}"
        for s, line in enumerate(text)
    )
    write(folder / "clock.csv", f"time,{header}", stamps)
    yield "with a clock", folder / "clock.csv", "1,2,3,4", ""
    write(folder / "quoted.csv", header, (f'"{line}"'.replace(",", '","') for line in text))
    yield "quoted", folder / "quoted.csv", "0,1,2,3", '"'
    write(
        folder / "empty.csv",
        header,
        (line if n % 3 else line[line.index(",") :] for n, line in enumerate(text)),
    )
    # NumPy's reader takes no empty cell: its peer is the same table with all of its numbers.
    yield "every third row with an empty cell", folder / "empty.csv", "1,2,3", ""
    for save, what in ((np.savez, "stored"), (np.savez_compressed, "packed")):
        save(folder / f"{what}.npz", a=table)
        yield f"NPZ {what}", folder / f"{what}.npz", "0", ""


def write(path: Path, header: str, lines: Iterator[str] | list[str]) -> None:
    path.write_text(header + "\n" + "\n".join(lines) + "\n")


def measure(path: Path, reader: str, columns: str, quote: str) -> tuple[float, float]:
    """(seconds, peak memory over the table's)."""
    command = [sys.executable, "-c", MEASURE, str(path), reader, columns, quote]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split()[:2]
    return float(seconds), float(memory)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=5)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "small.csv", "a,b,c,d,e", ["1,2,3,4.5,6", "2,3,1,4.5,7"])
        np.savez(folder / "small.npz", a=np.ones((2, 2), np.float32))
        for what, path, columns, quote in files(folder, chosen.rows):
            rounds = [
                [measure(path, reader, columns, quote) for reader in ("ours", "numpy")]
                for _ in range(chosen.rounds)
            ]
            (ours_s, ours_memory), (peer_s, _) = np.array(rounds).min(axis=0).tolist()
            peer = "np.load" if path.suffix == ".npz" else "np.loadtxt"
            report(f"{what}: {chosen.rows} rows of {COLUMNS}", ours_s, "s", peer, peer_s)
            report(f"{what}: peak memory", ours_memory, "times the table", "bound", MOST_MEMORY)
            path.unlink()


if __name__ == "__main__":
    main()
