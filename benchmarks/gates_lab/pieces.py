"""The work of the laboratory in pieces, each of which is kept once it is done: a run that was interrupted goes on where it stopped.

A piece is fifty rollouts of some cells of one world, from a seed of its own, so it is the same whenever and wherever it is
run. It is kept under the version of the code that can change it: the gates, the laboratory, NumPy. Delete the folder to run all anew.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet import gates
from gates_lab.groups import play_whole
from gates_lab.play import Setting, Trial, play
from gates_lab.previews import Stated, state_power
from gates_lab.releases import BAD, EDGE, GOOD, HARMFUL, RELEASES
from gates_lab.situations import SITUATIONS
from gates_lab.worlds import REAL, WORLDS
from runtime.durable_files import write_durably

__all__ = ["SIZES", "Done", "Work", "code_version", "do", "plan_work"]

SIZES: Final = ((5, 20, 100), (1, 2))
"""Canaries; those of one or two need a longer past to be compared with."""

EXTENSIONS: Final = 2
"""Looks after the soak, at twice its length and at four times."""

FLEETS: Final = 5
"""Whose past a preview is asked about, for each cell."""

PIECE: Final = 50
"""Rollouts of one piece of work: small enough that two cores end at about the same time."""

_Kind = tuple[str, tuple[int, ...]]
"""A world or a situation, and sizes of canaries."""

_OUTSIDE: Final = {"figures.py", "pieces.py"}
"""What shows the pieces and what parts them: changes no piece."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One piece. `name` is a world or a situation; the piece begins with rollout `seed` and plays `rollouts` with each of `sizes`."""

    part: str
    name: str
    sizes: tuple[int, ...] = ()
    rollouts: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a piece found."""

    trials: tuple[Trial, ...] = ()
    stated: tuple[Stated, ...] = ()


def plan_work(part: str, rollouts: int) -> Iterator[Work]:
    """All pieces of a part."""
    if part == "power":
        for name, size in itertools.product(WORLDS, itertools.chain.from_iterable(SIZES)):
            yield Work(part=part, name=name, sizes=(size,), rollouts=FLEETS, seed=size)
        return
    if part == "recordings":  # judging them takes a minute: once
        yield Work(part=part, name="smd", sizes=(5, 20), rollouts=rollouts, seed=0)
        return
    for kinds in _in_order(part):
        # a round over all kinds before the next: who stops early has some rollouts of every cell
        for begin in range(0, rollouts, PIECE):
            for name, sizes in kinds:
                yield Work(
                    part=part, name=name, sizes=sizes, rollouts=min(PIECE, rollouts - begin), seed=begin
                )


def _in_order(part: str) -> list[list[_Kind]]:
    """What is played together, what is judged first before the rest."""
    many, few = ([(world, sizes) for world in WORLDS] for sizes in SIZES)
    match part:
        case "good" | "passes":
            return [many, few]
        case "bad":
            first = [kind for kind in many if kind[0] == REAL.name]
            return [first, [kind for kind in many if kind not in first], few]
        case "extensions":
            return [many]
        case "whole":
            return [[(world, ()) for world in WORLDS]]
        case _:
            return [[(situation.name, situation.sizes) for situation in SITUATIONS.values()]]


def do(work: Work, kept: Path) -> Done:
    """A piece, played now, or as it was found in `kept`, the folder of this version of the code; runs in a process of its own."""
    name = hashlib.sha256(repr(work).encode()).hexdigest()[:24]
    file = kept / f"{work.part}-{name}.json"
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=Done)
    done = _play(work)
    kept.mkdir(parents=True, exist_ok=True)
    write_durably(file, msgspec.json.encode(done))
    return done


def code_version() -> str:
    """Of all that can change what a piece finds."""
    digest = hashlib.sha256(np.__version__.encode())
    for folder in (Path(gates.__file__).parent, Path(__file__).parent):
        for file in sorted(folder.glob("*.py")):
            if file.name not in _OUTSIDE:
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _play(work: Work) -> Done:
    sizes, rollouts, seed = work.sizes, work.rollouts, work.seed
    match work.part:
        case "good" | "bad":
            releases = BAD if work.part == "bad" else (GOOD, EDGE)
            trials = play(WORLDS[work.name], releases, sizes, rollouts=rollouts, seed=seed)
        case "power":
            return Done(stated=tuple(state_power(WORLDS[work.name], sizes, fleets=rollouts, seed=seed)))
        case "passes":
            trials = play(
                WORLDS[work.name],
                HARMFUL,
                sizes,
                rollouts=rollouts,
                seed=seed,
                setting=Setting(only_last=True),
                rivals=False,
            )
        case "extensions":
            trials = play(
                WORLDS[work.name],
                [GOOD, EDGE],
                sizes,
                rollouts=rollouts,
                seed=seed,
                setting=Setting(extensions=EXTENSIONS),
                rivals=False,
                label=f"{work.name}, looks at 2 S and 4 S too",
            )
        case "whole":
            trials = play_whole(WORLDS[work.name], [GOOD, EDGE], rollouts=rollouts, seed=seed)
        case "recordings":
            # only here: the detectors of a benchmark take a second to import
            from gates_lab.replayed import play_recordings

            folder = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
            trials = play_recordings(folder, sizes, rollouts=rollouts, seed=seed)
        case _:
            situation = SITUATIONS[work.name]
            trials = play(
                situation.world,
                [GOOD, *(RELEASES[bad] for bad in situation.releases)],
                sizes,
                rollouts=rollouts,
                seed=seed,
                setting=situation.setting,
                rivals=False,
                label=work.name,
            )
    return Done(trials=tuple(trials))
