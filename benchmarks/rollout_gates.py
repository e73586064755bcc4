"""How often do the gates of a rollout stop a good release, miss a bad one, pass a harmful one? One JSON object a figure.

    python benchmarks/rollout_gates.py [good] [bad] [passes] [power] [extensions] [whole] [situations] [recordings]
                                       [--rollouts 500] [--jobs 2] [--kept build/rollout-gates]
                                       [--tables FILE] [--plot docs/images/rollout-gates.svg]

Releases whose harm is known, in three worlds that are made up (`gates_lab.worlds`), judged through the entry points of `fleet.gates`:
all metrics at once, all looks, the plan's own level, four hours of every device's past, an hour of soak, 200 devices without the
release. `good` and `bad`: false stops and detections, beside the gates of 4dec79f and a gate on install success alone. `passes`: releases
exactly as bad as is called harmful. `power`: what a preview states, against what happens in `bad`. `extensions`: false stops where looks
at twice and at four times the soak follow. `whole`: three groups one after the other. `situations`: what a good release meets in the
field. `recordings`, only if asked for: recordings that the agent's own judge scored, from FEDGE_DATA (default ../shared/data).

What is done is kept, so an interrupted run goes on where it stopped (`gates_lab.pieces`). The exit code says whether every bound holds,
and the last line how many do.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Final

from gates_lab.figures import (
    Line,
    detection_table,
    draw,
    judge_cells,
    judge_passes,
    judge_power,
    stops_table,
    table_of,
)
from gates_lab.pieces import Done, code_version, do, plan_work
from gates_lab.play import Trial
from gates_lab.releases import EDGE
from gates_lab.situations import SITUATIONS

PARTS: Final = ("good", "bad", "passes", "power", "extensions", "whole", "situations")
ON_DEMAND: Final = ("recordings",)


class Laboratory:
    """Plays the parts in the processes of `pool`; what is done is kept in a folder, so a part is played once and read afterwards."""

    def __init__(self, pool: Executor, kept: Path, rollouts: int) -> None:
        self._pool, self._rollouts = pool, rollouts
        self._do = functools.partial(do, kept=kept)

    def play(self, part: str) -> Iterator[Done]:
        """All pieces of a part."""
        return self._pool.map(self._do, plan_work(part, self._rollouts))

    def trials(self, part: str) -> list[Trial]:
        """The cells of a part."""
        return merge(trial for done in self.play(part) for trial in done.trials)

    def judge(self, part: str) -> list[Line]:
        """The figures of a part, with what is demanded of them."""
        if part == "power":
            stated = [one for done in self.play(part) for one in done.stated]
            return list(judge_power(self.trials("bad"), stated))
        if part == "passes":
            return list(judge_passes(self.trials(part)))
        unpromised = {situation.name for situation in SITUATIONS.values() if not situation.is_promised}
        return list(judge_cells(self.trials(part), unpromised=unpromised))


def merge(pieces: Iterable[Trial]) -> list[Trial]:
    """Trials of the same cell as one, in the order in which the cells came first."""
    whole: dict[tuple[str, str, str, int], Trial] = {}
    for piece in pieces:
        key = (piece.method, piece.world, piece.release, piece.canaries)
        if key in whole:
            whole[key].tally.merge(piece.tally)
        else:
            whole[key] = piece
    return list(whole.values())


def tables_of(part: str, trials: Sequence[Trial], lines: Sequence[Line]) -> str:
    """A part as Markdown."""
    if part == "good":
        return f"{stops_table(trials)}\n\nThe same of releases as bad as the stop margins allow:\n\n{stops_table(trials, EDGE.name)}"
    if part == "bad":
        return detection_table(trials)
    return table_of(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="|".join((*PARTS, *ON_DEMAND)))
    parser.add_argument("--rollouts", type=int, default=500, help="of each cell")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--kept", type=Path, default=Path("build/rollout-gates"), help="where what is done is kept"
    )
    parser.add_argument("--tables", type=Path, help="where to write the tables, Markdown")
    parser.add_argument("--plot", type=Path, help="where to draw the cells, .svg or .png")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - {*PARTS, *ON_DEMAND}:
        parser.error(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *ON_DEMAND))}"
        )
    started, judged, tables = time.monotonic(), list[Line](), list[str]()
    with ProcessPoolExecutor(options.jobs) as pool:
        laboratory = Laboratory(pool, options.kept / code_version(), options.rollouts)
        for part in parts:
            lines = laboratory.judge(part)
            for line in lines:
                print(line.to_json(), flush=True)
            judged += [line for line in lines if line.bound is not None]
            tables.append(f"## {part}\n\n{tables_of(part, laboratory.trials(part), lines)}\n")
            if part == "bad" and options.plot is not None:
                draw([*laboratory.trials("good"), *laboratory.trials(part)], options.plot)
            print(f"[{time.monotonic() - started:.0f} s] {part}", file=sys.stderr)
    if options.tables is not None:
        options.tables.write_text("\n".join(tables), encoding="utf-8")
    broken = [line for line in judged if not line.holds]
    for line in broken:
        print(f"BROKEN {line.to_json()}")
    print(
        f"{len(judged) - len(broken)} of {len(judged)} bounds hold, {options.rollouts} simulated rollouts a cell"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
