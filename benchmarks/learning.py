"""Does learning together pay? One table for each data set: local, federated, personal, pooled, beside trivial detectors.

    python benchmarks/learning.py [pronostia|skab|mnist|heart|all] [--seeds 3] [--quick] [--plots DIR] [--table FILE]

JSON lines on stdout, one a figure; progress and the tables for people on stderr (the tables in FILE where one is named);
one SVG a table in DIR. Data: FEDGE_DATA, default ../shared/data; a table whose data are absent is skipped and says so.
What a table's rows are and how its thresholds were found stands in its module, `benchmarks/learning_tables/<table>.py`.
Matrices are small: OMP_NUM_THREADS=1 is faster than more. ``--quick`` is for seeing that everything runs: fewer rounds, figures
that mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

from learning_tables.plots import save_plot
from learning_tables.report import Row, text_table, write_rows

TABLES: Final = {"pronostia": "pronostia", "skab": "skab", "mnist": "mnist", "heart": "heart"}
"""Table → folder of its data."""


class Table(Protocol):
    """What a module of `learning_tables` offers."""

    def measure(
        self, seeds: Sequence[int], data: Path, *, is_quick: bool, progress: Callable[[str], None]
    ) -> list[Row]:
        """All rows over the seeds; `data` is this table's own folder."""

    def draw(self, rows: Sequence[Row], axes: Any) -> None:
        """The rows on matplotlib axes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", nargs="?", choices=(*TABLES, "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write one SVG a table there")
    parser.add_argument(
        "--table", type=Path, dest="people", metavar="FILE", help="tables for people (default: stderr)"
    )
    arguments = parser.parse_args()
    root = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    texts = []
    for name in TABLES if arguments.table == "all" else (arguments.table,):
        folder = root / TABLES[name]
        if not folder.is_dir():
            print(
                f"{name} skipped: no data at {folder}; set FEDGE_DATA to the folder that holds {TABLES[name]}/",
                file=sys.stderr,
            )
            continue
        module = cast("Table", importlib.import_module(f"learning_tables.{name}"))
        rows = module.measure(
            range(arguments.seeds), folder, is_quick=arguments.quick, progress=_progress(name)
        )
        write_rows(name, rows, figures=sys.stdout, people=sys.stderr)
        texts.append(text_table(name, rows))
        if arguments.plots is not None:
            print(f"plot: {save_plot(name, rows, module.draw, arguments.plots)}", file=sys.stderr)
    if arguments.people is not None:
        arguments.people.write_text("\n".join(texts), encoding="utf-8")


def _progress(table: str) -> Callable[[str], None]:
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {table}: {what}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    main()
