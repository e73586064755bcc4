"""What one malicious device, a tenth or a third of a fleet does to what all of them learn, with each layer off and on. One JSON object a figure.

    python benchmarks/poisoning.py [network] [mixture] [radius] [--set pronostia|cmapss] [--seeds 3] [--small] [--plot docs/images/poisoning.png]

`network`: the autoencoder, ten rounds and a threshold, over learner, encoding, sum checks, groups, median, trust region and gate of the
product (`poisoning_lab.campaign`). `mixture`: the fleet's prior, which judges by default (`poisoning_lab.priors`). `radius`: how far a model may
be moved, what the narrowest unit then sees, and what a third of poisoners then do. `--small` is one fleet and two attacks. Recordings come from
FEDGE_DATA (default ../shared/data); everything was chosen on PRONOSTIA, and C-MAPSS was run once. After the figures: the tables, and
lines ``{"judged": …, "pass": …}`` for what is demanded of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from poisoning_lab.attacks import ATTACKS
from poisoning_lab.campaign import ALL, NONE, Layers, Outcome, Poisoned, play, poisoners_of
from poisoning_lab.figures import Figure, draw, means, network_quality, table
from poisoning_lab.fleets import Works, load_works

FLEETS: Final = ((12, 1), (17, 6), (30, 3), (30, 10))
"""Devices, and poisoners among them."""

LAYERS: Final = {
    "as at 4dec79f": NONE,
    "one vote, C": Layers(is_checked=False, is_grouped=False, has_region=False),
    "+ sum checks": Layers(is_grouped=False, has_region=False),
    "+ groups, median": Layers(has_region=False),
    "+ trust region": ALL,
}
"""Each with the one before; in the first the threshold is pooled, then voted for and clamped."""

MOST_LOST: Final = {1: (0.01, 0.05), 3: (0.03, 0.15), 6: (0.03, 0.15), 10: (0.03, 0.15)}
"""Of AP and of recall, by poisoners."""


def run_network(
    works: Works, fleets: Sequence[tuple[int, int]], seeds: int, *, is_small: bool
) -> Iterator[Figure]:
    """Each fleet clean and under each attack, with each set of layers."""
    attacks = [
        attack for attack in ATTACKS if not is_small or attack.name in {"flip x10", "blind, to the limit"}
    ]
    for seed in range(seeds):
        release = works.release(seed)
        are_clean = set[tuple[int, str]]()
        for devices, poisoners in fleets:
            fleet = works.fleet(devices, seed)
            chosen = poisoners_of(devices, poisoners, seed)
            for name, layers in LAYERS.items():
                if is_small and layers not in (NONE, ALL):
                    continue
                if (devices, name) not in are_clean:
                    are_clean.add((devices, name))
                    clean = play(works, fleet, release, Poisoned(), layers, seed=seed)
                    yield _figure(works, devices, 0, "none", name, seed, clean)
                for attack in attacks:
                    poisoned = Poisoned(attack=attack, devices=chosen)
                    found = play(works, fleet, release, poisoned, layers, seed=seed)
                    yield _figure(works, devices, poisoners, attack.name, name, seed, found)


def _figure(
    works: Works, devices: int, poisoners: int, attack: str, layers: str, seed: int, found: Outcome
) -> Figure:
    ap, recall, false_alarms = network_quality(works, found.parameters, found.threshold)
    return Figure(
        set=works.name,
        detector="network",
        devices=devices,
        poisoners=poisoners,
        attack=attack,
        layers=layers,
        seed=seed,
        ap=ap,
        recall=recall,
        false_alarms=false_alarms,
        released=not found.stopped,
        gate="; ".join(found.refused),
        distance=found.distance,
        why=found.stopped,
    )


def judge(figures: Sequence[Figure], layers: str) -> Iterator[dict[str, object]]:
    """What is demanded of all layers together, a line a fleet and attack: AP and recall against the clean run, or stopped."""
    found = means(figures)
    for (name, detector, devices, poisoners, attack, used), mean in found.items():
        if not poisoners or used != layers:
            continue
        clean = found[name, detector, devices, 0, "none", used]
        lost = {metric: clean[metric] - mean[metric] for metric in ("ap", "recall")}
        most = MOST_LOST[poisoners]
        is_stopped = mean["released"] == 0
        yield {
            "judged": f"{name}, {detector}: {poisoners} of {devices}, {attack}",
            "ap_lost": round(lost["ap"], 4),
            "recall_lost": round(lost["recall"], 4),
            "most": most,
            "stopped": is_stopped,
            "pass": bool(is_stopped or (lost["ap"] <= most[0] and lost["recall"] <= most[1])),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["network", "mixture"], metavar="network|mixture|radius")
    parser.add_argument("--set", default="pronostia", choices=("pronostia", "cmapss"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    data, started = Path(os.environ.get("FEDGE_DATA", "../shared/data")), time.monotonic()
    works = load_works(options.set, data)
    fleets = FLEETS[:1] if options.small else FLEETS
    is_whole = True
    for part in options.parts:
        if part == "radius":
            from poisoning_lab.radius import run_radius

            for line in run_radius(works, options.seeds):
                print(json.dumps(line), flush=True)
            continue
        figures: list[Figure] = []
        if part == "network":
            layers, runs = list(LAYERS), run_network(works, fleets, options.seeds, is_small=options.small)
        else:
            from poisoning_lab.priors import LAYERS as OF_PRIORS
            from poisoning_lab.priors import run_mixture

            layers, runs = list(OF_PRIORS), run_mixture(works, fleets, options.seeds, is_small=options.small)
        for figure in runs:
            figures.append(figure)
            print(figure.to_json(), flush=True)
        print(f"[{time.monotonic() - started:.0f} s] {part}", file=sys.stderr)
        print(table(figures, layers))
        lines = list(judge(figures, layers[-1]))
        for line in lines:
            print(json.dumps(line), flush=True)
        kept = sum(bool(line["pass"]) for line in lines)
        is_whole &= kept == len(lines)
        print(f"{part}: {kept} of {len(lines)} attacks cost no more than is demanded")
        if options.plot is not None:
            draw(figures, layers, options.plot.with_stem(f"{options.plot.stem}-{part}"))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
