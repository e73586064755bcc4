"""How often do the gates of a rollout stop a good release, miss a bad one, pass a harmful one? One JSON object a figure.

    python benchmarks/rollout_gates.py [cells] [passes] [whole] [situations] [recordings] [--rollouts 500] [--jobs 2]
                                       [--tables FILE] [--plot docs/images/rollout-gates.svg]

Releases whose harm is known, in three worlds that are made up (`gates_lab.worlds`), judged through the entry points of `fleet.gates`:
all metrics at once, all looks, the plan's own level, four hours of every device's past, an hour of soak, 200 devices without the
release. `cells`: false stops and detections, beside the gates of 4dec79f and a gate on install success alone, and the power that a preview
states, against what then happens. `passes`: releases exactly as bad as is called harmful. `whole`: three groups one after the other.
`situations`: what a good release meets in the field. `recordings`, only if asked for: recordings that the agent's own judge scored, from
FEDGE_DATA (default ../shared/data). The exit code says whether every bound holds, and the last line how many do.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from gates_lab.groups import play_whole
from gates_lab.play import Setting, Trial, play
from gates_lab.previews import Stated, state_power
from gates_lab.releases import BAD, EDGE, GOOD, HARMFUL, RELEASES
from gates_lab.situations import SITUATIONS
from gates_lab.worlds import WORLDS

SIZES: Final = ((1, 2), (5, 20, 100))
"""Canaries; those of one or two need a longer past to be compared with."""

PARTS: Final = ("cells", "passes", "whole", "situations")
ON_DEMAND: Final = ("recordings",)
FLEETS: Final = 5
"""Whose past a preview is asked about, for each cell."""

PIECE: Final = 50
"""Rollouts of one piece of work: small enough that two cores end at about the same time."""

Work = tuple[str, str, tuple[int, ...], int, int]
"""Part, world or situation, sizes of canaries, rollouts, seed."""


def run(work: Work) -> list[Trial]:
    """One piece of a part; runs in a process of its own."""
    part, name, sizes, rollouts, seed = work
    match part:
        case "cells":
            return list(play(WORLDS[name], [GOOD, EDGE, *BAD], sizes, rollouts=rollouts, seed=seed))
        case "passes":
            only_last = Setting(only_last=True)
            return list(
                play(
                    WORLDS[name],
                    HARMFUL,
                    sizes,
                    rollouts=rollouts,
                    seed=seed,
                    setting=only_last,
                    rivals=False,
                )
            )
        case "whole":
            return list(play_whole(WORLDS[name], [GOOD, EDGE], rollouts=rollouts, seed=seed))
        case "recordings":
            # only here: the detectors of a benchmark take a second to import
            from gates_lab.replayed import play_recordings

            folder = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
            return list(play_recordings(folder, sizes, rollouts=rollouts, seed=seed))
        case _:
            situation = SITUATIONS[name]
            releases = [GOOD, *(RELEASES[bad] for bad in situation.releases)]
            setting = situation.setting
            return list(
                play(
                    situation.world,
                    releases,
                    sizes,
                    rollouts=rollouts,
                    seed=seed,
                    setting=setting,
                    rivals=False,
                    label=name,
                )
            )


def preview(work: tuple[str, int]) -> list[Stated]:
    """What the fleets of a world are told of plans with so many canaries; runs in a process of its own."""
    name, size = work
    return list(state_power(WORLDS[name], (size,), fleets=FLEETS, seed=size))


def plan_work(part: str, rollouts: int) -> Iterator[Work]:
    """All pieces of a part."""
    for begin in range(0, rollouts, PIECE):
        count = min(PIECE, rollouts - begin)
        match part:
            case "cells" | "passes":
                for sizes, world in itertools.product(SIZES, WORLDS):
                    yield part, world, sizes, count, begin
            case "whole":
                for world in WORLDS:
                    yield part, world, (), count, begin
            case "recordings":
                if not begin:  # judging them takes a minute: once
                    yield part, "", (5, 20), rollouts, begin
            case _:
                for situation in SITUATIONS.values():
                    yield part, situation.name, situation.sizes, count, begin


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


def judge(part: str, trials: Sequence[Trial]) -> list[Line]:
    """The figures of a part, with what is demanded of them."""
    if part == "passes":
        return list(judge_passes(trials))
    unpromised = {situation.name for situation in SITUATIONS.values() if not situation.is_promised}
    return list(judge_cells(trials, unpromised=unpromised))


def tables_of(part: str, trials: Sequence[Trial], lines: Sequence[Line]) -> str:
    """A part as Markdown."""
    if part == "cells":
        return f"{stops_table(trials)}\n\n{detection_table(trials)}"
    return table_of(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="|".join((*PARTS, *ON_DEMAND)))
    parser.add_argument("--rollouts", type=int, default=500, help="of each cell")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
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
        for part in parts:
            trials = merge(itertools.chain.from_iterable(pool.map(run, plan_work(part, options.rollouts))))
            lines = judge(part, trials)
            if part == "cells":
                asked = itertools.product(WORLDS, itertools.chain.from_iterable(SIZES))
                stated = list(itertools.chain.from_iterable(pool.map(preview, asked)))
                lines += judge_power(trials, stated)
            for line in lines:
                print(line.to_json(), flush=True)
            judged += [line for line in lines if line.bound is not None]
            tables.append(f"## {part}\n\n{tables_of(part, trials, lines)}\n")
            if part == "cells" and options.plot is not None:
                draw(trials, options.plot)
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
