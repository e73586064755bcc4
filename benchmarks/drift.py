"""How soon is a change found, at equal run length between false alarms? Ours beside ADWIN, Page-Hinkley, KSWIN and PSI.

    python benchmarks/drift.py [promise|trade-off|delays|commissioning|skab|cost|all] [--quick] [--out DIR]

`delays`: eight kinds of change, three distributions, without and with autocorrelation, each detector held to the same ARL0
in the same world (`drift_lab/curves.py`); ours also as shipped, with the ARL0 it then really has. `commissioning`: what
is left of that with a reference of a few hundred windows, without and with the replay. `skab`: change points of a real
pump. `promise`: is the run length kept on healthy rows of real machines, which share of the time are they in drift, and is a
shift found (`drift_lab/promise.py`)? `trade-off`: what of power and of time in drift the allowance for what wanders costs and
saves on recorded rows. These need FEDGE_DATA (default ../shared/data) and skip what is absent. `cost`: time
per sample, bytes of state.

One JSON line a figure on stdout, with the half width of its 95 % interval; figures as SVG in DIR; progress on stderr.
``--quick`` takes a minute or two: fewer lives, independent windows and one autoregression. All of it takes some
twenty minutes on one core of a shared machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small arrays: more threads only wait for each other

import numpy as np
from drift_cost import measure_cost
from drift_lab.commissioning import measure_commissioning
from drift_lab.curves import (
    Delay,
    Make,
    World,
    delays,
    healthy_maxima,
    level_for,
    run_length_of,
)
from drift_lab.figures import draw_delays, draw_skab
from drift_lab.ours import OurDetectors
from drift_lab.promise import ALLOWED, PLANS, PROMISED, SHIFT_STDS, WITHIN, measure_promise
from drift_lab.rivals import AdwinLives, KswinLives, PageHinkleyLives, PsiLives
from drift_lab.skab import RATES_PER_HOUR, measure_skab, share_found_at
from drift_lab.worlds import CHANGES

AT: Final = 10_000.0
"""The run length of the design's table."""
DESIGN: Final = {"mean .5": 54.0, "mean 1": 18.0, "scale 1.5": 102.0, "scale .5": 61.0, "stuck": 12.0}
"""The best figure of each of its columns, whichever detector it was."""
DISTRIBUTIONS: Final = ("gaussian", "t3", "log-normal")


def ours(reference: Any, rng: np.random.Generator) -> OurDetectors:
    """As shipped, at the design's run length for one sensor."""
    return OurDetectors(reference, run_length=AT, rng=rng)


DETECTORS: Final[dict[str, tuple[Make, float]]] = {
    # with the share of the lives that they get: a KSWIN step costs ten of ours
    "ours": (ours, 1.0),
    "page-hinkley": (PageHinkleyLives, 1.0),
    "psi": (PsiLives, 1.0),
    "kswin": (KswinLives, 0.1),
}


def tell(name: str, value: float, unit: str, **more: Any) -> None:
    """One figure on stdout."""
    rounded = {key: round(item, 4) if isinstance(item, float) else item for key, item in more.items()}
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, **rounded}), flush=True)


def progress(line: str) -> None:
    """One line on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def adwin_delta(world: World, run_length: float, *, lives: int, seed: int) -> float:
    """The delta with which ADWIN keeps a run length in a world, by bisection of its logarithm."""
    length = int(min(run_length, 10_000))
    wanted = 1 - math.exp(-length / run_length)
    low, high = math.log(1e-60), math.log(5.0)
    for _ in range(8):
        middle = (low + high) / 2
        alarmed = healthy_maxima(
            world,
            lambda reference, _: AdwinLives(reference.sensors, math.exp(middle)),  # noqa: B023 - used at once
            lives=lives,
            lengths=(length,),
            rng=np.random.default_rng(seed),
        )[length]
        low, high = (middle, high) if alarmed.mean() < wanted else (low, middle)
    return math.exp((low + high) / 2)


def measure_world(world: World, *, lives: int, run_lengths: tuple[float, ...], out: Path | None) -> None:
    """All changes in one world."""
    lengths = tuple(int(min(r, 20_000)) for r in run_lengths)
    curves: dict[tuple[str, str], list[tuple[float, Delay]]] = {}
    shipped: dict[str, Delay] = {}
    for number, (name, (make, share)) in enumerate(DETECTORS.items()):
        count = int(lives * share)
        maxima = healthy_maxima(world, make, lives=count, lengths=lengths, rng=np.random.default_rng(number))
        levels = [level_for(maxima, run_length) for run_length in run_lengths]
        if name == "ours":
            mean, low, high = run_length_of(maxima, 1.0)
            tell(f"ARL0 as shipped: {world}", mean, "windows", low=low, high=high, bound=AT, ratio=mean / AT)
        for change in CHANGES:
            rng = np.random.default_rng(100 + number)
            as_shipped = [1.0] if name == "ours" else []
            found = delays(world, change, make, [*levels, *as_shipped], lives=count, rng=rng)
            curves[change, name] = list(zip(run_lengths, found, strict=False))
            if as_shipped:
                shipped[change] = found[-1]
        progress(f"{world}: {name}")
    is_plain = world == World(distribution="gaussian", phi=0.0)
    for run_length in run_lengths if is_plain else (AT,):
        count = min(max(lives // 10, 40), 100)
        delta = adwin_delta(world, run_length, lives=count, seed=7)
        for change in CHANGES:
            (delay,) = delays(
                world,
                change,
                lambda reference, _: AdwinLives(reference.sensors, delta),  # noqa: B023 - used at once
                [1.0],
                lives=count,
                rng=np.random.default_rng(200),
            )
            curves.setdefault((change, "adwin"), []).append((run_length, delay))
    progress(f"{world}: adwin")
    for (change, name), points in curves.items():
        for run_length, delay in points:
            bound = DESIGN.get(change) if name == "ours" and is_plain and run_length == AT else None
            tell(
                f"delay at ARL0 {run_length:g}: {world}: {change}: {name}",
                delay.mean,
                "windows",
                ci95=delay.half_width,
                found=delay.found,
                lives=delay.lives,
                **({"bound": bound, "ratio": delay.mean / bound} if bound else {}),
            )
    for change, delay in shipped.items():
        best = min(
            (point.mean, name)
            for (of, name), points in curves.items()
            for at, point in points
            if of == change and at == AT and name != "ours"
        )
        tell(
            f"delay as shipped: {world}: {change}",
            delay.mean,
            "windows",
            ci95=delay.half_width,
            found=delay.found,
            peer=best[0],
            peer_name=best[1],
            ratio=delay.mean / best[0],
            **({"bound": DESIGN[change]} if is_plain and change in DESIGN else {}),
        )
    if out is not None:
        name = f"drift-{world.distribution}-{world.phi:g}.svg"
        draw_delays(curves, f"Delay at equal run length: {world}", out / name)


def measure_delays(*, is_quick: bool, out: Path | None) -> None:
    """All worlds."""
    for distribution in DISTRIBUTIONS:
        for phi in (0.0, 0.5, 0.8):
            if is_quick and phi and (distribution, phi) != ("gaussian", 0.5):
                continue
            lives = 2000 if (distribution, phi) == ("gaussian", 0.0) else 500
            measure_world(
                World(distribution=distribution, phi=phi),
                lives=300 if is_quick else lives,
                run_lengths=(1000.0, AT) if is_quick else (1000.0, 3000.0, AT, 30_000.0),
                out=out,
            )


def report_commissioning(*, is_quick: bool) -> None:
    """False alarms of devices that learnt their normal from `reference` windows."""
    for phi in (0.8,) if is_quick else (0.0, 0.5, 0.8):
        for reference in (120,) if is_quick else (120, 400):
            world = World(distribution="gaussian", phi=phi)
            for row in measure_commissioning(
                world,
                reference=reference,
                lives=40 if is_quick else 150,
                windows=2000,
                run_length=AT,
                rng=np.random.default_rng(reference),
            ):
                method = "with the replay" if row.is_replayed else "table alone"
                tell(
                    f"lives with a false alarm in 2000 windows: {world}: reference of {reference}: {method}",
                    row.alarmed,
                    "share",
                    ci95=row.half_width,
                    bound=row.wanted,
                    ratio=row.alarmed / row.wanted,
                    wandering=row.wandering,
                    delay_of_one_deviation=row.delay,
                )
            progress(f"commissioning: {world}, {reference} windows")


def report_promise(*, is_quick: bool) -> None:
    """Healthy rows of real machines in three orders."""
    folder = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    for name, order, seeds in PLANS:
        if not (folder / name).is_dir():
            progress(f"promise: {name} skipped: no data at {folder / name}")
            continue
        found = measure_promise(folder, name, order, seeds=1 if is_quick else seeds)
        whole = f"{name}, {order}"
        judged = order != "recorded"
        run_length = found.windows / max(found.reports, 1)
        at_least = {} if found.reports else {"at_least": True}
        tell(
            f"windows per drift report: {whole}",
            run_length,
            "windows",
            windows=found.windows,
            reports=found.reports,
            promised=PROMISED,
            **at_least,
            **({"bound": PROMISED / 2, "ratio": run_length / (PROMISED / 2)} if judged else {}),
        )
        bound = 0.05 if judged else 0.25
        share = found.drifted / found.windows
        tell(f"share of time in drift: {whole}", share, "share", bound=bound, ratio=share / bound)
        tell(f"share of time away from the reference: {whole}", found.away / found.windows, "share")
        for shift, (hits, tries) in sorted(found.power.items()):
            if not tries:  # lives too short to be shifted
                continue
            floor = {"bound": 0.8} if shift == SHIFT_STDS else {}
            tell(
                f"shift of {shift:g} deviations found within {WITHIN} windows: {whole}",
                hits / tries,
                "share",
                tries=tries,
                **floor,
            )
        progress(f"promise: {whole}")


def report_trade_off() -> None:
    """On recorded rows share of time in drift and power exclude each other: how, as less and less is allowed for what wanders."""
    folder = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    for name, order, seeds in PLANS:
        if order != "recorded" or name == "cmapss" or not (folder / name).is_dir():
            continue
        for allowed in ALLOWED:
            found = measure_promise(folder, name, order, seeds=seeds, allowed=allowed)
            hits, tries = found.power[SHIFT_STDS]
            tell(
                f"trade-off, {allowed:.0%} of the allowance: {name}, {order}",
                hits / max(tries, 1),
                f"share of {SHIFT_STDS:g} deviations found",
                in_drift=found.drifted / found.windows,
                away=found.away / found.windows,
                windows_per_report=found.windows / max(found.reports, 1),
            )
        progress(f"trade-off: {name}, {order}")


def report_skab(*, is_quick: bool, out: Path | None) -> None:
    """Change points of the pump."""
    folder = Path(os.environ.get("FEDGE_DATA", "../shared/data")) / "skab"
    if not folder.is_dir():
        progress(f"skab skipped: no data at {folder}; set FEDGE_DATA to the folder that holds skab/")
        return
    outcomes = measure_skab(folder, progress, rates=(6.0,) if is_quick else RATES_PER_HOUR)
    for o in outcomes:
        tell(
            f"SKAB change points found within 60 s, {o.wanted_per_hour:g} alarms per hour wanted: {o.detector}",
            o.found / o.change_points,
            "share",
            change_points=o.change_points,
            mean_delay_s=o.mean_delay_s,
            false_per_hour=o.false_per_hour,
        )
    for rate in (10.0, 20.0):
        of = {
            name: share_found_at([o for o in outcomes if o.detector == name], rate)
            for name in dict.fromkeys(o.detector for o in outcomes)
        }
        for name, share in of.items():
            if share is not None:
                tell(f"SKAB change points found at {rate:g} false alarms per hour: {name}", share, "share")
    if out is not None:
        draw_skab(outcomes, out / "drift-skab.svg")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = ("promise", "trade-off", "delays", "commissioning", "skab", "cost")
    parser.add_argument("part", nargs="?", choices=(*parts, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="a minute or two instead of twenty")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures there")
    arguments = parser.parse_args()
    chosen = parts if arguments.part == "all" else (arguments.part,)
    if "cost" in chosen:
        for figure in measure_cost():
            tell(**figure)
    if "promise" in chosen:
        report_promise(is_quick=arguments.quick)
    if "trade-off" in chosen:
        report_trade_off()
    if "delays" in chosen:
        measure_delays(is_quick=arguments.quick, out=arguments.out)
    if "commissioning" in chosen:
        report_commissioning(is_quick=arguments.quick)
    if "skab" in chosen:
        report_skab(is_quick=arguments.quick, out=arguments.out)


if __name__ == "__main__":
    main()
