"""Does `fedge study` foretell what agents then do? One JSON object a set and a question.

    python benchmarks/study.py [skab|pronostia|smd|cmapss ...] [--until .6] [--alarms-per-1000 1]

``deployed``: the study sees whole recordings, learns of their first 40 % and says how many false alarms come in the rest. Then version 1 is
made of the same 40 % as `fedge-aggregator initial-release` makes it, trained centrally, signed and read again, and each recording is played by
`edge_agent.sources.replay` from a file into the deployed pipeline. Counted are false alarms in the same held-back time.

``later``: the study sees the first 60 % of each recording. Then agents run its release on the rest, which nobody has seen: one that goes on
from the beginning (``goes on``), and one that is installed where the study ended and commissions itself there (``joins``). This asks more: that time to
come is like time that was.

What is compared are false alarms in 1,000 windows, windows of labelled faults left out. The interval of their ratio is the exact one of two
Poisson counts (Clopper and Pearson of their share): where it holds 2 or 1/2, so few alarms cannot tell, and ``within_a_factor_2`` is null.

Sets are read as a person would have them read, from FEDGE_DATA (default ../shared/data). Bearings and engines have no labels, so each alarm of
theirs counts as false, those of their end too. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import beta

from aggregator.exporter import SigningExporter
from aggregator.family_file import FamilySpec, FeaturesSection, ModelSection
from aggregator.initial_release import train_release
from edge_agent.detection_memory import DetectionMemory
from edge_agent.judgement import Judged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.replay import ReplaySource
from edge_agent.sources.settings import ReplaySettings
from models.bundles import ModelBundle, read_bundle
from models.recordings.machines import Machine, Reading
from models.recordings.reading import read_machines
from models.thresholds import Closed, Opened
from protocol.bundle import TrustedKeys, open_bundle
from simulations.errors import ScenarioError
from simulations.study.notebook import Episode, Played
from simulations.study.recommendation import recommend
from simulations.study.releases import MOST_LEARNT
from simulations.study.replay import play
from simulations.study.studying import Study, prepare, study
from simulations.study.subjects import Subject, learning_features
from simulations.study.verdicts import Tally, add_up, judge_alarms

FACTOR = 2.0
SETS: Mapping[str, tuple[str, dict[str, str]]] = {
    "skab": ("skab/valve1 skab/valve2 skab/other", {}),
    "pronostia": ("pronostia/pronostia_features.npz", {"sample_rate": "0.1"}),
    "smd": ("smd/smd.npz", {"sample_rate": "0.0166666667"}),
    "cmapss": ("cmapss/cmapss.npz", {"sample_rate": "none"}),
}
"""Set → what `fedge study` is given: places under FEDGE_DATA, and answers."""


def first_part(reading: Reading, until: float) -> Reading:
    """That share of each recording, by rows."""
    return replace(reading, machines=tuple(cut_off(machine, until) for machine in reading.machines))


def cut_off(machine: Machine, until: float) -> Machine:
    end = round(until * len(machine.rows))
    pieces = (slice(piece.start, min(piece.stop, end)) for piece in machine.pieces if piece.start < end)
    return replace(
        machine,
        rows=machine.rows[:end],
        times_s=None if machine.times_s is None else machine.times_s[:end],
        labels=None if machine.labels is None else machine.labels[:end],
        pieces=tuple(pieces),
    )


def deploy(found: Study, _: Reading) -> Tally:
    """What agents with a first release of the learning time do in the held-back time: release, file, source and pipeline are the deployed ones."""
    prepared = found.prepared
    width = prepared.spec.feature_count
    machines = {
        subject.name: learning_features(subject, prepared.spec, MOST_LEARNT, MOST_LEARNT)
        for subject in prepared.subjects
    }
    family = FamilySpec(
        family="study",
        model=ModelSection(layers=(width, 16, 8, 16, width)),
        features=FeaturesSection(kind="passthrough", names=prepared.spec.names),
        commissioning_rows=min(prepared.settings.commissioning_windows, min(map(len, machines.values())) - 1),
    )
    key = Ed25519PrivateKey.generate()
    made = train_release(family, machines, SigningExporter(key), created_at=0.0, accepts_blind=True)
    bundle = read_bundle(open_bundle(made.content, TrustedKeys([key.public_key()])))
    verdicts = []
    for subject in prepared.subjects:
        with tempfile.TemporaryDirectory() as folder:
            judged = run_agent(subject, bundle, prepared.settings, Path(folder))
        verdicts.append(judge_alarms(subject, judged))
    return add_up(verdicts)


def run_agent(subject: Subject, bundle: ModelBundle, settings: DetectionSettings, folder: Path) -> Played:
    """An agent's own source and pipeline over a file; what it told, in held-back windows."""
    every_s = float(np.median(np.diff(subject.times_s)))
    np.savez(folder / "r.npz", m=subject.windows, feature_names=list(bundle.manifest.features.names))
    source = ReplaySource(ReplaySettings(path=folder / "r.npz", key="m", row_every_s=every_s, loop=False))
    paths, wall_s = StatePaths(folder / "state"), [0.0]
    with closing(open_stores(paths, source.spec, BufferSettings())) as stores:
        pipeline = Pipeline(
            source.spec,
            settings,
            memory=DetectionMemory(paths, source.spec),
            stores=stores,
            clock=time.perf_counter,
            wall=lambda: wall_s[0],
        )
        pipeline.adopt(
            bundle.manifest,
            bundle.int8_model,
            bundle_sha256=bundle.sha256,
            is_trial=False,
            prior=bundle.prior,
        )
        ratios, alarms, opened = np.full(subject.held_back, np.nan, np.float32), [], None
        while (window := source.next_window(float("inf"))) is not None:
            wall_s[0], at = window.observed_at_s, window.index - subject.learning
            judged = pipeline.observe(window)
            if not isinstance(judged, Judged):
                continue
            if at >= 0:
                ratios[at] = judged.score / judged.threshold
            if isinstance(judged.alarm, Opened):
                opened = at
            elif isinstance(judged.alarm, Closed) and opened is not None:
                alarms += [Episode(first=max(opened, 0), end=at, is_old=opened < 0)] if at > 0 else []
                opened = None
        if opened is not None:
            alarms.append(
                Episode(first=max(opened, 0), end=subject.held_back, is_old=opened < 0, is_open=True)
            )
    return Played(machine=subject.name, release="deployed", ratios=ratios, alarms=tuple(alarms))


def play_later(found: Study, reading: Reading, *, goes_on: bool) -> Tally:
    """What agents with the study's release do on what it has not seen."""
    settings, spec = found.prepared.settings, found.prepared.spec
    bundle = found.releases.mixture
    assert bundle is not None
    whole = {subject.name: subject for subject in prepare(reading, alarms_per_1000=1.0).subjects}
    verdicts = []
    for subject in found.prepared.subjects:
        seen, later = len(subject.windows), whole[subject.name]
        first = 0 if goes_on else seen
        later = replace(
            later,
            windows=later.windows[first:],
            times_s=later.times_s[first:],
            labels=None if later.labels is None else later.labels[first:],
            learning=seen - first,
        )
        verdicts.append(judge_alarms(later, play(later, bundle, spec, settings, release="later")))
    return add_up(verdicts)


def ratio_interval(came: Tally, foretold: Tally) -> tuple[float, float]:
    """The exact 95 % interval of the rate that came over the rate that was foretold."""
    a, b = came.false_alarms, foretold.false_alarms
    low = float(beta.ppf(0.025, a, b + 1)) if a else 0.0
    high = float(beta.ppf(0.975, a + 1, b)) if b else 1.0
    exposure = foretold.healthy / came.healthy
    return low / (1 - low) * exposure, high / (1 - high) * exposure if high < 1 else float("inf")


def line(name: str, what: str, found: Study, came: Tally, seconds: float) -> str:
    foretold = found.best.tally
    low, high = ratio_interval(came, foretold)
    before, after = foretold.per_1000() or 0.0, came.per_1000() or 0.0
    within = None if low < 1 / FACTOR or high > FACTOR else True
    if low > FACTOR or high < 1 / FACTOR:
        within = False
    told = {
        "name": f"study: {name}: {what}",
        "machines": foretold.machines,
        "foretold_per_1000": before,
        "foretold": f"{foretold.false_alarms} in {foretold.healthy}",
        "came_per_1000": after,
        "came": f"{came.false_alarms} in {came.healthy}",
        "ratio": after / before if before else None,
        "ratio_low": low,
        "ratio_high": high if np.isfinite(high) else None,
        "within_a_factor_2": within,
        "ratio_is_within": bool(before and 1 / FACTOR <= after / before <= FACTOR),
        "faults": f"{came.seen} of {came.events}",
        "answer": recommend(found).headline.name.lower(),
        "seconds": seconds,
    }
    return json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in told.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument(
        "--until", type=float, default=0.6, help="the share of each recording that the study sees"
    )
    parser.add_argument("--alarms-per-1000", type=float, default=1.0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    data = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    for name in arguments.sets or SETS:
        places, answers = SETS[name]
        paths = [data / place for place in places.split()]
        if not all(path.exists() for path in paths):
            print(f"{name} skipped: no data at {data / name}", file=sys.stderr)
            continue
        reading = read_machines(paths, answers=answers)
        studies: dict[float, tuple[Study, float]] = {}
        for what, until, ask in (
            ("deployed", 1.0, deploy),
            ("later, goes on", arguments.until, partial(play_later, goes_on=True)),
            ("later, joins", arguments.until, partial(play_later, goes_on=False)),
        ):
            try:
                if until not in studies:
                    studies[until] = study_first(reading, until, arguments.alarms_per_1000)
            except ScenarioError as error:
                print(f"{name}: {what} skipped: {error}", file=sys.stderr)
                continue
            found, seconds = studies[until]
            print(line(name, what, found, ask(found, reading), seconds), flush=True)
    return 0


def study_first(reading: Reading, until: float, alarms_per_1000: float) -> tuple[Study, float]:
    """(the study of that share of each recording, seconds that it took)."""
    began = time.monotonic()
    found = study(prepare(first_part(reading, until), alarms_per_1000=alarms_per_1000))
    return found, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
