"""Which release judges the next window: what the installation says is put into the pipeline, between two windows.

A release that cannot be used leaves the one before in force; `error` says so until another is tried, and the loop hands it
to the installer with each window, which then undoes the release.
"""

from __future__ import annotations

import logging

from edge_agent.agent_ports import Installation
from edge_agent.health import Vitals
from edge_agent.installation.active import ActiveRelease
from edge_agent.pipeline import Pipeline
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
        self.error: str | None = None

    def look(self) -> DriftVerdict | None:
        """Take up what changed since the last look; returns a verdict where drift ended with it."""
        active = self._installation.active()
        if active is None:
            self._retire()
            return None
        was_trial, self._vitals.is_trial = self._vitals.is_trial, active.is_trial
        if active.generation != self._generation:
            self._generation = active.generation
            return self._adopt(active)
        if was_trial and not active.is_trial:
            log.info("release_committed release=%s", active.release)
            return self._pipeline.commit()
        return None

    def _adopt(self, active: ActiveRelease) -> DriftVerdict | None:
        self._vitals.latencies.clear()
        bundle = active.bundle
        try:
            recovered = self._pipeline.adopt(
                bundle.manifest,
                bundle.int8_model,
                bundle_sha256=bundle.sha256,
                is_trial=active.is_trial,
                prior=bundle.prior,
            )
        except Exception as error:  # noqa: BLE001 - whatever a release does to us, the one before goes on judging
            told = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            self.error = f"{active.release} cannot be used: {told}"
            log.warning("release_not_adopted error=%s", self.error)
            return None
        self.error, self._vitals.release = None, active.release
        log.info("release_adopted release=%s trial=%s", active.release, active.is_trial)
        return recovered

    def _retire(self) -> None:
        if self._generation is not None:
            log.warning("release_retired release=%s", self._vitals.release)
            self._generation = self._vitals.release = None
            self._vitals.is_trial = False
            self._pipeline.retire()
