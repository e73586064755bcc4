"""The study itself: from a reading to figures, with every core, and a word of progress now and then.

::

    Reading ─► machines cut into windows ─► releases of the learning time ─┬─► each machine alone ──┐
                     └─ too short: said                                    ├─► the shared network ──┼─► played, judged by labels ─► Study
                                                                           └─► the mixture ─────────┘
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from aggregator.errors import AggregatorError
from aggregator.machine_checks import moving_sensors
from edge_agent.settings import DetectionSettings
from models.architecture import Architecture
from models.bundles import ModelBundle
from models.detection.promise import AlarmBudget
from models.errors import ModelError
from models.export.isolated import export_training_model
from models.recordings.machines import Reading
from models.recordings.suggestions import FEWEST_LEARNING, Suggestion, suggested
from protocol.manifest import FeatureSpec
from runtime.errors import SettingsError
from simulations.errors import ScenarioError
from simulations.study.costs import Bytes, count_bytes
from simulations.study.notebook import Played
from simulations.study.privacy_cost import PrivacyOfFleet, cost_of_privacy
from simulations.study.releases import ALONE, MIXTURE, MOST_LEARNT, NETWORK, Releases, build_releases
from simulations.study.replay import play
from simulations.study.subjects import Subject, TooShort, cut_windows, learning_features, most_missing
from simulations.study.verdicts import Tally, Verdict, add_up, judge_alarms

__all__ = ["Prepared", "Study", "Way", "agent_settings", "learn", "prepare", "study"]

Progress = Callable[[str, float], None]
"""A stage, and the share of it that is done."""

WORTH_PROCESSES: Final = 100_000
"""Windows, of all ways together: fewer are played before another process would have started."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What is studied, before anything has been learnt: said to a person first."""

    reading: Reading
    suggestion: Suggestion
    spec: FeatureSpec
    subjects: tuple[Subject, ...]
    too_short: tuple[TooShort, ...]
    settings: DetectionSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """One way of watching all machines: what each agent did, what its alarms were worth in int8 and in float, and all together."""

    name: str
    played: tuple[Played, ...]
    int8: tuple[Verdict, ...]
    floats: tuple[Verdict, ...]

    @property
    def tally(self) -> Tally:
        """Of all machines in int8: as deployed."""
        return add_up(self.int8)

    @property
    def sight(self) -> float | None:
        """Share of slight disturbances that agents saw, the mean of the machines where it is known."""
        known = [one.sight for one in self.played if one.sight is not None]
        return float(np.mean(known)) if known else None

    @property
    def float_tally(self) -> Tally:
        """Of all machines before quantisation."""
        return add_up(self.floats)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """All that was found; `ways` by name."""

    prepared: Prepared
    releases: Releases
    ways: Mapping[str, Way]
    bytes: Bytes
    privacy: PrivacyOfFleet
    seconds: float

    @property
    def best(self) -> Way:
        """The way that is deployed: the mixture where there is a fleet and its release can carry one."""
        return next(self.ways[name] for name in (MIXTURE, ALONE, NETWORK) if name in self.ways)


def agent_settings(suggestion: Suggestion, alarms_per_1000: float) -> DetectionSettings:
    """An agent's ``[detection]`` for recordings like these; all else is its default."""
    return DetectionSettings(
        commissioning_windows=suggestion.commissioning_windows,
        commissioning_longest_windows=suggestion.longest_commissioning,
        reference_windows=suggestion.commissioning_windows,
        budget=AlarmBudget(alarms_per_1000_windows=alarms_per_1000),
    )


def prepare(reading: Reading, *, alarms_per_1000: float) -> Prepared:
    """Cut a reading into machines with a learning time and a held-back one.

    Raises:
        ScenarioError: no machine is long enough, or its sensors cannot be watched; the message says what would be.
    """
    reading = _moving(reading)
    suggestion = suggested(reading)
    try:
        spec = suggestion.features(reading.sensors, reading.sample_rate_hz)
    except (ModelError, ValueError) as error:
        raise ScenarioError(f"these sensors cannot be watched as they are: {error}") from None
    cut = [
        cut_windows(
            machine.name,
            machine.rows,
            suggestion,
            times_s=machine.times_s,
            labels=machine.labels,
            pieces=machine.pieces,
            sample_rate_hz=reading.sample_rate_hz,
        )
        for machine in reading.machines
    ]
    subjects = tuple(one for one in cut if isinstance(one, Subject))
    too_short = tuple(one for one in cut if isinstance(one, TooShort))
    if not subjects:
        said = "; ".join(one.said for one in too_short[:3])
        raise ScenarioError(f"no machine is long enough to be studied: {said or 'there is none'}")
    return Prepared(
        reading=reading,
        suggestion=suggestion,
        spec=spec,
        subjects=subjects,
        too_short=too_short,
        settings=agent_settings(suggestion, alarms_per_1000),
    )


def _moving(reading: Reading) -> Reading:
    """Without sensors that never move on any machine, which a family leaves out."""
    names = moving_sensors(reading)
    if names == reading.sensors:
        return reading
    if not names:
        raise ScenarioError("no column moves on any machine: record machines at work")
    places = [place for place, name in enumerate(reading.sensors) if name in names]
    still = [name for name in reading.sensors if name not in names]
    return replace(
        reading,
        sensors=names,
        machines=tuple(replace(machine, rows=machine.rows[:, places]) for machine in reading.machines),
        notes=(*reading.notes, *(f"{name!r} never moves on any machine: it is left out" for name in still)),
    )


def learn(
    prepared: Prepared, progress: Progress, export: Callable[[Architecture], bytes]
) -> tuple[Releases, tuple[Subject, ...], list[TooShort]]:
    """Releases, the machines that they are of, and those of which too few whole rows are left.

    Raises:
        ScenarioError: nothing can be learnt of these machines.
    """
    commissioning = prepared.settings.commissioning_windows
    rows, left_out = {}, []
    for subject in prepared.subjects:
        found = learning_features(subject, prepared.spec, commissioning, MOST_LEARNT)
        if len(found) < FEWEST_LEARNING:
            why = most_missing(subject, prepared.reading.sensors)
            what = "whole windows to learn from" + (f" ({why})" if why else "")
            left_out.append(
                TooShort(name=subject.name, windows=len(found), needed=FEWEST_LEARNING, what=what)
            )
            continue
        rows[subject.name] = found
    if not rows:
        raise ScenarioError(f"no machine can be learnt from: {left_out[0].said}")
    subjects = tuple(subject for subject in prepared.subjects if subject.name in rows)
    scale_rows = min(commissioning, min(map(len, rows.values())) - 1)
    try:
        releases = build_releases(rows, prepared.spec, scale_rows, progress=progress, export=export)
    except (ModelError, AggregatorError, SettingsError) as error:
        raise ScenarioError(f"nothing can be learnt of these machines: {error}") from None
    return releases, subjects, left_out


def study(
    prepared: Prepared,
    *,
    progress: Progress = lambda _stage, _share: None,
    processes: int | None = None,
    export: Callable[[Architecture], bytes] = export_training_model,
) -> Study:
    """Learn of the learning time, watch all of it, and judge the held-back time.

    Args:
        prepared: the machines.
        progress: told stage and share.
        processes: that play; None: as many as there are cores, where that is worth it.
        export: builds a training graph.

    Raises:
        ScenarioError: nothing can be learnt of these machines.
    """
    began = time.monotonic()
    releases, subjects, too_short = learn(prepared, progress, export)
    prepared = replace(prepared, subjects=subjects, too_short=(*prepared.too_short, *too_short))
    ways = {}
    jobs = [
        _Job(way=way, subject=subject, bundle=bundle, spec=prepared.spec, settings=prepared.settings)
        for way, bundles in _bundles(releases, subjects).items()
        for subject, bundle in zip(subjects, bundles, strict=True)
    ]
    found = _play_all(jobs, progress, processes)
    for name in dict.fromkeys(job.way for job in jobs):
        played = tuple(one for job, one in zip(jobs, found, strict=True) if job.way == name)
        ways[name] = Way(
            name=name,
            played=played,
            int8=tuple(judge_alarms(*pair) for pair in zip(subjects, played, strict=True)),
            floats=tuple(judge_alarms(*pair, is_int8=False) for pair in zip(subjects, played, strict=True)),
        )
    made = Study(
        prepared=prepared,
        releases=releases,
        ways=ways,
        bytes=Bytes(raw=0, events=0, health=None),
        privacy=cost_of_privacy(len(subjects), len(releases.averaged.parameters)),
        seconds=time.monotonic() - began,
    )
    return replace(made, bytes=count_bytes(subjects, made.best.played))


def _bundles(releases: Releases, subjects: Sequence[Subject]) -> dict[str, list[ModelBundle]]:
    """Of each way a bundle for each machine. One machine alone is a fleet of one: there is no mixture besides."""
    ways = {NETWORK: [releases.network] * len(subjects)}
    if releases.mixture is None:
        return ways
    ways = {ALONE: [releases.alone[subject.name] for subject in subjects], **ways}
    return ways if len(subjects) == 1 else {**ways, MIXTURE: [releases.mixture] * len(subjects)}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    way: str
    subject: Subject
    bundle: ModelBundle
    spec: FeatureSpec
    settings: DetectionSettings

    @property
    def windows(self) -> int:
        return len(self.subject.windows)

    def play(self, progress: Callable[[int], None]) -> Played:
        return play(self.subject, self.bundle, self.spec, self.settings, release=self.way, progress=progress)


def _play_all(jobs: Sequence[_Job], progress: Progress, processes: int | None) -> list[Played]:
    total, done = sum(job.windows for job in jobs), 0
    workers = processes or min(os.cpu_count() or 1, len(jobs))
    if processes is None and total < WORTH_PROCESSES:
        workers = 1

    def tell(windows: int) -> None:
        nonlocal done
        done += windows
        progress("watching", done / total)

    if workers > 1:
        return _play_in_processes(jobs, progress, workers)
    with _quiet_agents():
        return [job.play(tell) for job in jobs]


def _play_in_processes(jobs: Sequence[_Job], progress: Progress, workers: int) -> list[Played]:
    context = get_context("spawn")
    done, total = context.Value("q", 0), sum(job.windows for job in jobs)
    with (
        tempfile.TemporaryDirectory(prefix="fedge-study-") as shelf,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(done,)) as pool,
    ):
        # Windows go by way of files, which processes map: a pipe would hold them twice more.
        files = {job.subject.name: Path(shelf) / f"{place}.npy" for place, job in enumerate(jobs)}
        for job in {id(job.subject): job for job in jobs}.values():
            np.save(files[job.subject.name], job.subject.windows)
        waiting: dict[Future[Played], int] = {}
        # The longest first, so that no core waits for the last one alone.
        for place in sorted(range(len(jobs)), key=lambda place: -jobs[place].windows):
            job = jobs[place]
            slim = replace(job, subject=replace(job.subject, windows=job.subject.windows[:0]))
            waiting[pool.submit(_play_mapped, slim, files[job.subject.name])] = place
        pending = set(waiting)
        while pending:
            _, pending = wait(pending, timeout=0.25)
            progress("watching", done.value / total)
        found = {place: future.result() for future, place in waiting.items()}
    return [found[place] for place in range(len(jobs))]


_done: Any = None
"""Of a worker: the counter of windows that all of them share."""


def _begin_worker(done: Any) -> None:
    global _done  # noqa: PLW0603 - a pool hands a counter to its workers in no other way
    _done = done
    logging.disable(logging.CRITICAL)


def _play_mapped(job: _Job, windows: Path) -> Played:
    subject = replace(job.subject, windows=np.load(windows, mmap_mode="r"))

    def tell(count: int) -> None:
        with _done.get_lock():
            _done.value += count

    return replace(job, subject=subject).play(tell)


class _quiet_agents:  # noqa: N801 - used as a statement
    """What agents would write to their logs is in what they did; here it would be in the way."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
