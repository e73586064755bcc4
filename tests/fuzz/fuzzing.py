"""Feed a parser with spoilt samples: only its own errors come out, soon, and without the memory of a bomb.

    python tests/fuzz/fuzzing.py [--seconds 600] [--seed N] [--parser NAME]          (a step of make prove)

A find is printed with the seed and the bytes that made it; the last line says how much was tried.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
import time
from itertools import count
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    ROOT = Path(__file__).parents[2]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from fed_parser import Parser
from mutations import mutate
from parsers import PARSERS

__all__ = ["FoundError", "feed"]

MOST_CPU_S: Final = 2.0
"""For one input of at most 400 kB, on this thread's own clock: an honest one takes milliseconds."""

MOST_GROWTH_KB: Final = 300_000
"""Of the whole process while one parser is fed; a recording of 30 MB is one of the inputs."""

TIMES: Final = 100
"""Inputs to one parser before the next one's turn."""


class FoundError(AssertionError):
    """Something came out that must not."""


def feed(parser: Parser, seed: int, times: int) -> None:
    """Try `times` inputs; raises FoundError."""
    chance = random.Random(f"{seed}/{parser.name}")
    for sample in parser.samples:
        _try(parser, sample, "a sample")
    before = _most_memory()
    for number in range(times):
        _try(parser, mutate(parser.samples, chance, own=parser.own), f"seed {seed}, input {number}")
    gc.collect()
    if (grown := _most_memory() - before) > MOST_GROWTH_KB:
        raise FoundError(f"{parser.name}: the process grew by {grown} kB (seed {seed})")


def _try(parser: Parser, content: bytes, where: str) -> None:
    began = time.thread_time()
    try:
        parser.call(content)
    except parser.may_raise:
        pass
    except Exception as error:
        raise FoundError(
            f"{parser.name} ({where}): {type(error).__name__}: {str(error)[:200]}\n{content[:300]!r}"
            f"{f'… ({len(content)} bytes)' if len(content) > 300 else ''}"
        ) from error
    if (took := time.thread_time() - began) > MOST_CPU_S:
        raise FoundError(
            f"{parser.name} ({where}) took {took:.1f} s of CPU for {len(content)} bytes: {content[:100]!r}"
        )


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    """The long run."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options.add_argument("--parser", default="")
    asked = options.parse_args()
    chosen = [parser for parser in PARSERS if asked.parser in parser.name]
    print(f"seed {asked.seed}")
    turns, ends = 0, time.monotonic() + asked.seconds
    for turn, parser in ((turn, parser) for turn in count() for parser in chosen):
        if time.monotonic() > ends:
            break
        try:
            feed(parser, asked.seed + turn, TIMES)
        except FoundError as found:
            print(found)
            return 1
        turns += 1
    tried = turns * TIMES
    print(
        f"{tried} spoilt inputs to {len(chosen)} parsers, seed {asked.seed}: only their own errors, each within {MOST_CPU_S:g} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
