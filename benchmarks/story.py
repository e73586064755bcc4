"""The figures of the whole story against their targets, one JSON object each: ``python benchmarks/story.py [SCENARIO]``.

Plays a scenario (default ``quick``, two minutes; ``demo`` is what `make demo` plays) with the real processes and prints what its last
screen shows: memory of an agent alone and with its learner in a run, bandwidth, seconds a round, recovery from a bad release.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console

from simulations.figures import Figures
from simulations.playing import open_world_and_play


def figures_against_targets(figures: Figures) -> list[tuple[str, float | None, str, float, bool]]:
    """(name, value, unit, bound, whether more is better) of every figure that has a target."""
    return [
        ("agent memory (PSS)", figures.agent_memory_mb, "MB", 60, False),
        ("agent + learner memory in a run (PSS)", figures.agent_and_learner_memory_mb, "MB", 180, False),
        ("bandwidth saved", figures.bandwidth_saved_pct, "%", 99, True),
        ("round, with training", figures.seconds_per_round, "s", 2, False),
        ("bad release to full recovery", figures.seconds_to_recover, "s", 30, False),
        ("whole story", figures.seconds_total, "s", 300, False),
    ]


def main() -> None:
    """Play, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", default="quick")
    scenario = parser.parse_args().scenario
    with tempfile.TemporaryDirectory() as home, (Path(home) / "screen").open("w") as screen:
        outcome = open_world_and_play(
            scenario, Path(home) / "world", Console(file=screen), report_path=Path(home) / "report.html"
        )
    for name, value, unit, bound, is_floor in figures_against_targets(outcome.figures):
        known = value is not None
        print(
            json.dumps(
                {
                    "name": f"{scenario}: {name}",
                    "value": value,
                    "unit": unit,
                    "bound": bound,
                    "ratio": value / bound if known else None,
                    "met": known and (value >= bound if is_floor else value <= bound),
                }
            )
        )


if __name__ == "__main__":
    main()
