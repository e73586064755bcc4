"""Which release judges the next window: what the installation says is put into the pipeline, between two windows.

What takes long, to fit the judge of a committed release on thousands of rows, is done beside the loop (`edge_agent.preparation`);
until then it judges as one on trial does, and a kill begins it again.

A release that cannot be used leaves the one before in force; `error` says so until another is tried, and the loop hands it
to the installer with each window, which then undoes the release.
"""

from __future__ import annotations

import logging

from edge_agent.agent_ports import Installation
from edge_agent.health import Vitals
from edge_agent.installation.active import ActiveRelease
from edge_agent.pipeline import Pipeline
from edge_agent.preparation import Preparation
from models.bundles import ModelBundle
from models.drift.monitor import DriftVerdict
from models.errors import ModelError

__all__ = ["ModelSwap"]

log = logging.getLogger(__name__)


class ModelSwap:
    """Puts releases into force; writes `release` and `is_trial` of the vitals.

    Attributes:
        error: why the release that is to be tried cannot be used; None where there is none.
    """

    def __init__(self, installation: Installation, pipeline: Pipeline, vitals: Vitals) -> None:
        self._installation, self._pipeline, self._vitals = installation, pipeline, vitals
        self._generation: int | None = None
        self._preparation: Preparation | None = None
        self.error: str | None = None

    def look(self) -> DriftVerdict | None:
        """Take up what changed since the last look; returns a verdict where drift ended with it."""
        active = self._installation.active()
        if active is None:
            self._retire()
            return None
        was_trial, self._vitals.is_trial = self._vitals.is_trial, active.is_trial
        if active.generation != self._generation:
            self._generation, self._preparation = active.generation, None
            return self._adopt(active)
        if was_trial and not active.is_trial:
            log.info("release_committed release=%s", active.release)
            return self._commit(active.bundle)
        return self._finish()

    def _commit(self, bundle: ModelBundle) -> DriftVerdict | None:
        """At once, or as soon as that takes no time: a window does not wait for a fit on thousands of rows."""
        if not self._takes_long(bundle):
            return self._pipeline.commit()
        normal = self._pipeline.normal
        self._preparation = normal.fitter.prepare(bundle, normal.settings, normal.drift.settings)
        return None

    def _finish(self) -> DriftVerdict | None:
        preparation = self._preparation
        if preparation is None or not (preparation.done or preparation.error):
            return None
        self._preparation = None
        self._pipeline.normal.fitter.take(preparation.done)
        return self._pipeline.commit()

    def _takes_long(self, bundle: ModelBundle) -> bool:
        return self._pipeline.is_commissioned and self._pipeline.normal.fitter.takes_long(bundle.sha256)

    def _adopt(self, active: ActiveRelease) -> DriftVerdict | None:
        self._vitals.latencies.clear()
        bundle = active.bundle
        takes_long = self._takes_long(bundle) and not self._pipeline.normal.fitter.knows(bundle.sha256)
        try:
            recovered = self._pipeline.adopt(
                bundle.manifest,
                bundle.int8_model,
                bundle_sha256=bundle.sha256,
                is_trial=active.is_trial or takes_long,
                prior=bundle.prior,
            )
        except Exception as error:  # noqa: BLE001 - whatever a release does to us, the one before goes on judging
            told = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            self.error = f"{active.release} cannot be used: {told}"
            log.warning("release_not_adopted error=%s", self.error)
            return None
        self.error, self._vitals.release = None, active.release
        log.info("release_adopted release=%s trial=%s", active.release, active.is_trial)
        if takes_long and not active.is_trial:
            return self._commit(bundle)
        return recovered

    def _retire(self) -> None:
        if self._generation is not None:
            log.warning("release_retired release=%s", self._vitals.release)
            self._generation = self._vitals.release = self._preparation = None
            self._vitals.is_trial = False
            self._pipeline.retire()
