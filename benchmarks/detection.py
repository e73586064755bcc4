"""Does detection keep what it promises on machines that nobody tuned it for? One JSON object a figure.

    python benchmarks/detection.py --generated [daily|regimes|...] [--seeds 3]
    python benchmarks/detection.py [pronostia|skab|smd|cmapss|FOLDER ...] [--seeds 3] [--methods BEGIN ...] [--peers]

Sets: by name, from FEDGE_DATA (default ../shared/data), all four by default; or any folder with one ``<device>.npz`` a device
(`detection_tables.folders` says which arrays). Everything runs with the product's defaults, nothing is set by hand. What a figure is:
`detection_tables.figures`; the lines by which the product is judged follow as ``{"judged": …, "pass": …}`` (`detection_tables.judged`).
A seed starts what is random in a method (a forest, a network); what is not random runs once, as seed 0. How much a figure depends on the
machines that happen to be in a set is its ``standard_error``, over devices. ``--peers`` runs other people's detectors in place of ours:
`make bench-peers`, in an environment of their own. ``--generated [WORLD ...]`` measures what a profile and regimes are worth on made-up
machines (`detection_tables.generated`). Progress and what the door for recordings says go to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detection_tables.devices import Device, learnable
from detection_tables.figures import Figure, measure
from detection_tables.folders import load_folder
from detection_tables.judged import judge
from detection_tables.methods import Method
from detection_tables.named_sets import NAMED_SETS

from models.errors import ModelError, RecordingError


def say(started: float, what: str) -> None:
    print(f"[{time.monotonic() - started:6.1f} s] {what}", file=sys.stderr, flush=True)


def load(place: str, data: Path) -> tuple[str, list[Device]]:
    """(name, devices) of a named set or of a folder; raises RecordingError."""
    if place in NAMED_SETS:
        folder = data / place
        if not folder.is_dir():
            raise RecordingError(f"no data at {folder}; set FEDGE_DATA to the folder that holds {place}/")
        return place, NAMED_SETS[place](folder)
    if not Path(place).is_dir():
        raise RecordingError(f"{place!r} is neither a folder nor one of {', '.join(NAMED_SETS)}")
    return Path(place).resolve().name, load_folder(
        Path(place), note=lambda text: print(text, file=sys.stderr)
    )


def load_methods(*, peers: bool) -> Sequence[Method]:
    """Imported late: neither environment has what the other needs."""
    if peers:
        from detection_tables.peers import PEERS

        return PEERS
    from detection_tables.product import PRODUCT
    from detection_tables.today import TODAY
    from detection_tables.trivial import TRIVIAL

    return (*TRIVIAL, *TODAY, *PRODUCT)


def measure_generated(started: float, worlds: Sequence[str], seeds: int) -> int:
    """Without and with context, each seed other machines; the table of the means is the last thing printed."""
    from detection_tables.context_figures import measure_contexts, table_of
    from detection_tables.generated import WORLDS, make_world

    figures: list[Figure] = []
    for world in worlds or WORLDS:
        for seed in range(seeds):
            devices = make_world(world, seed)
            for figure in measure_contexts(world, devices, [learnable(device) for device in devices]):
                figures.append(replace(figure, seed=seed, is_random=True))
                print(figures[-1].to_json(), flush=True)
            say(started, f"{world}, seed {seed}")
    print(table_of(figures))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET|FOLDER", help=f"{', '.join(NAMED_SETS)}, or a folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[""],
        metavar="BEGIN",
        help="those whose names begin so, e.g. mixed local",
    )
    parser.add_argument("--peers", action="store_true", help="other people's detectors: make bench-peers")
    parser.add_argument(
        "--generated", action="store_true", help="what context is worth on generated machines"
    )
    arguments = parser.parse_args()
    data, started = Path(os.environ.get("FEDGE_DATA", "../shared/data")), time.monotonic()
    if arguments.generated:
        return measure_generated(started, arguments.sets, arguments.seeds)
    begins = tuple(arguments.methods)
    chosen = [method for method in load_methods(peers=arguments.peers) if method.name.startswith(begins)]
    is_whole = True
    for place in arguments.sets or NAMED_SETS:
        try:
            name, devices = load(place, data)
        except RecordingError as error:
            print(f"{place} skipped: {error}", file=sys.stderr)
            is_whole &= not arguments.sets
            continue
        seen = [learnable(device) for device in devices]
        figures: list[Figure] = []
        for method in chosen:
            for seed in range(arguments.seeds if method.is_random else 1):
                try:
                    found = measure(name, method, devices, method.fit(seen, seed), seed)
                except ModelError as error:
                    print(f"{name}: {method.name} skipped: {error}", file=sys.stderr)
                    is_whole = False
                    break
                print("\n".join(figure.to_json() for figure in found), flush=True)
                figures += found
                say(started, f"{name}: {method.name}" + (f", seed {seed}" if method.is_random else ""))
        if arguments.peers:
            from detection_tables.peers import compare_volumes

            print(compare_volumes(name, devices).to_json(), flush=True)
        for line in judge(name, figures):
            print(line.to_json(), flush=True)
    return 0 if is_whole else 2


if __name__ == "__main__":
    sys.exit(main())
