"""Fitting a release's judge, where a window waits for it or in a thread beside the loop.

Fitting takes a quarter of a second at 46 sensors on a desktop's core, and seconds on a small board; so a release that can be known
before it is taken up is made ready beside the loop: its model opened, its context looked for, its judge and drift monitor fitted.
What is prepared is used when it is taken up, if nothing that it depends on has changed since: the rows, by and large, their
scale and the settings.

The thread is given copies and gives back one value. Who asked looks for it between windows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning
from edge_agent.context_file import fingerprint_of_context
from edge_agent.context_search import ContextSearch, Search
from edge_agent.detection_memory import DetectionMemory
from edge_agent.fitting import MOST_ROWS, Fit, RunningRelease, fit_judge, fit_monitor, network_judge
from edge_agent.judges import NetworkJudge
from edge_agent.kept_rows import KeptRows
from edge_agent.live_context import as_seen
from edge_agent.sample_buffer import BufferedRows
from edge_agent.settings import DetectionSettings
from models.bundles import ModelBundle
from models.detection.context import Context
from models.drift.monitor import DriftSettings
from models.int8_model import Int8Model
from models.sensors import SensorView

__all__ = ["Fitter", "Preparation", "Prepared"]

log = logging.getLogger(__name__)

_OLD_SHARE: Final = 0.125
"""Of the rows that were fitted on: when so many windows have come since, what is fitted anew is another."""
_MANY_ROWS: Final = 1000
"""To fit on fewer takes a tenth of a second."""
_TIMED: Final = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A release that is ready: its `fit`, drift monitor included, and what it was made of; judging one row takes it `cost_s`."""

    fit: Fit
    bundle_sha256: str
    settings: DetectionSettings
    search: Search
    cost_s: float


class Preparation:
    """`done` as soon as it is, or `error`, in one line."""

    def __init__(self, work: Callable[[], Prepared]) -> None:
        self.done: Prepared | None = None
        self.error = ""
        self._work = work
        threading.Thread(target=self._run, name="preparation", daemon=True).start()

    def _run(self) -> None:
        try:
            self.done = self._work()
        except Exception as error:  # noqa: BLE001 - whatever a release does to us is its failure, and no thread's end
            self.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Fitter:
    """Fits on the rows of one device. One thread, but for what `prepare` begins.

    Args:
        memory: knows the judge of the release that was committed last.
        rows: that may be learnt.
        scale: in which they are.
        search: finds their context.
    """

    def __init__(
        self, memory: DetectionMemory, rows: KeptRows, scale: Commissioning, search: ContextSearch
    ) -> None:
        self._memory, self._rows, self._scale, self._search = memory, rows, scale, search
        self._prepared: Prepared | None = None
        self._age_windows = 0

    def takes_long(self, bundle_sha256: str) -> bool:
        """Would windows wait for it to commit this release now?"""
        is_ready = self._prepared is not None and self._prepared.bundle_sha256 == bundle_sha256
        return self._rows.learnable > _MANY_ROWS and not is_ready

    def knows(self, bundle_sha256: str) -> bool:
        """Is its judge remembered from when it was committed?"""
        return self._memory.remembered.bundle_sha256 == bundle_sha256

    def prepare(self, bundle: ModelBundle, settings: DetectionSettings, drift: DriftSettings) -> Preparation:
        """Begin to make a release ready."""
        search = self._search.begin(
            self._newest(settings, is_mixture=bundle.prior is not None), self._scale.units
        )
        return Preparation(lambda: _prepare(bundle, search, settings, drift))

    def take(self, prepared: Prepared | None) -> None:
        """What was prepared, for when its release is taken up; None: forget it."""
        self._prepared, self._age_windows = prepared, 0

    def grow_older(self) -> None:
        """A window was judged."""
        self._age_windows += 1

    def fit(
        self,
        release: RunningRelease,
        settings: DetectionSettings,
        context: Context | None,
        *,
        finds_context: bool,
    ) -> Fit:
        """Fit a release's judge now, or take what was prepared; in the `context` in force unless one is to be found."""
        is_mixture, unit = release.prior is not None, self._scale.units
        if (ready := self._take_up(release, settings, context, finds_context=finds_context)) is not None:
            return ready
        kept = self._newest(settings, is_mixture=is_mixture)
        if is_mixture and finds_context:
            return fit_judge(release, self._search.find(kept, unit), settings)
        return fit_judge(release, as_seen(kept, unit, context if is_mixture else None), settings)

    def _take_up(
        self,
        release: RunningRelease,
        settings: DetectionSettings,
        context: Context | None,
        *,
        finds_context: bool,
    ) -> Fit | None:
        ready = self._prepared
        if ready is None or ready.bundle_sha256 != release.bundle_sha256:
            return None
        found = ready.fit.judge.context
        is_same = (
            ready.settings == settings
            and np.array_equal(ready.search.unit, self._scale.units)
            and self._age_windows <= _OLD_SHARE * len(ready.search.kept)
            and (finds_context or fingerprint_of_context(found) == fingerprint_of_context(context))
        )
        if not is_same:
            return None
        if finds_context and release.prior is not None:
            self._search.note(ready.search, found)
        if not release.is_trial:
            self._prepared = (
                None  # it is this device's normal from now on, and is not fitted again of the same rows
            )
        if isinstance(
            ready.fit.judge, NetworkJudge
        ):  # by the model that was opened for it, which may run elsewhere
            return replace(ready.fit, judge=network_judge(release, ready.fit.judge.threshold, settings))
        return ready.fit

    def _newest(self, settings: DetectionSettings, *, is_mixture: bool) -> BufferedRows:
        return self._rows.newest(MOST_ROWS if is_mixture else max(settings.reference_windows, MOST_ROWS))


def _prepare(
    bundle: ModelBundle, search: Search, settings: DetectionSettings, drift: DriftSettings
) -> Prepared:
    started, manifest = time.perf_counter(), bundle.manifest
    release = RunningRelease(
        name=manifest.release,
        manifest=manifest,
        model=Int8Model(bundle.int8_model, manifest.model.kind),
        bundle_sha256=bundle.sha256,
        is_trial=True,
        prior=bundle.prior,
    )
    is_mixture = bundle.prior is not None
    healthy = search.run() if is_mixture else as_seen(search.kept, search.unit, None)
    fit = fit_judge(release, healthy, settings)
    fit = replace(fit, monitor=fit_monitor(SensorView(manifest.features), fit, drift))
    log.info("release_prepared release=%s in_s=%.2f", release.name, time.perf_counter() - started)
    return Prepared(
        fit=fit,
        bundle_sha256=bundle.sha256,
        settings=settings,
        search=search,
        cost_s=_cost_s(fit, search.kept.rows[-_TIMED:]),
    )


def _cost_s(fit: Fit, rows: NDArray[np.float32]) -> float:
    taken = []
    for row in rows:
        started = time.perf_counter()
        fit.judge.probe(row)
        taken.append(time.perf_counter() - started)
    return max(taken, default=0.0)
