"""A run's journal: its committed steps, read and written, and the patience with a fleet that is away.

The steps of a run (`coordinator` with devices, `releasing` after them) share it. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Final, TypeVar

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from aggregator.errors import FleetUnreachableError, UnknownRunError
from aggregator.rounds import champion
from aggregator.rounds.assessment import Assessment, read_assessment
from aggregator.rounds.attendance import Pacing
from aggregator.rounds.ports import ReleaseFleet
from aggregator.rounds.reports import CohortReport, GroupSum, RoundCanceledError
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RoundRecord, RunState, TrainingRun
from aggregator.rounds.silence import LONGEST_PAUSE_S
from aggregator.rounds.training import ModelState
from models.bundles import ModelBundle
from protocol.bundle import TrustedKeys
from protocol.names import RunId
from protocol.questions import REFIT_KINDS, Kind
from runtime.backoff import backoff_s

__all__ = [
    "ANCHOR",
    "ASSESSMENT",
    "BUNDLE",
    "CHAMPION",
    "GROUPS",
    "MOMENTS",
    "PARAMETERS",
    "RunJournal",
]

CHAMPION: Final = "champion"
PARAMETERS: Final = "parameters"
MOMENTS: Final = "moments"
ASSESSMENT: Final = "assessment"
ANCHOR: Final = "anchor"
BUNDLE: Final = "bundle"

FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 10.0
"""Bounds of the pauses between attempts to reach the fleet."""

GROUPS: Final = "groups"
"""What follows a question's name in that of the artifact with its groups' sums, one after the other."""

T = TypeVar("T")
_log = structlog.get_logger()


class RunJournal:
    """Reads and writes runs.

    Args:
        store: where runs are kept; to be read by whoever holds the journal.
        trusted: release keys under which a champion may be built upon.
        pacing: time, and whether the service is stopping.
        patience_s: how long an unreachable fleet is waited for.
    """

    def __init__(self, store: RunStore, trusted: TrustedKeys, pacing: Pacing, patience_s: float) -> None:
        self.store, self._trusted, self._pacing, self._patience_s = store, trusted, pacing, patience_s
        self._champion: tuple[RunId, ModelBundle] | None = None

    def earlier_rounds(self, run: TrainingRun) -> list[RoundRecord]:
        """The rounds of the family's runs before this one that are not too old to tell who is silent, oldest first."""
        before = self._pacing.now() - LONGEST_PAUSE_S
        runs = [other for other in self.store.recent(family=run.family) if other.id != run.id]
        return [record for other in reversed(runs) for record in other.log if record.started_at >= before]

    def patiently(self, call: Callable[[], T], run: TrainingRun) -> T:
        """Call until the fleet answers.

        Raises:
            FleetUnreachableError: the patience ended.
            RoundCanceledError: the run or the service is ending.
        """
        started = self._pacing.now()
        for attempt in count(1):
            wait_s = backoff_s(
                attempt, first_s=FIRST_RETRY_S, maximum_s=LONGEST_RETRY_S, draw=self._pacing.draw()
            )
            try:
                return call()
            except FleetUnreachableError as error:
                if self._pacing.now() - started + wait_s > self._patience_s:
                    raise
                _log.warning("fleet_unreachable", run=run.id, retry_s=wait_s, reason=str(error))
            if self._pacing.is_stopping() or self.store.is_cancel_requested(run.id):
                raise RoundCanceledError("the run ended while the fleet was away", CohortReport())
            self._pacing.sleep(wait_s)
        raise AssertionError("the waits never end")

    def newest_release(self, fleet: ReleaseFleet, run: TrainingRun) -> tuple[bytes, ModelBundle]:
        """What a run builds upon, verified; raises as `champion.fetch_champion` and `patiently`."""
        return self.patiently(lambda: champion.fetch_champion(fleet, run.family, self._trusted), run)

    def champion(self, run: TrainingRun) -> ModelBundle:
        """The release the run started from: verified when this process first needs it, and then held until another run does."""
        if self._champion is None or self._champion[0] != run.id:
            content = self.store.artifact(run.id, CHAMPION)
            self._champion = (run.id, champion.read_champion(content, self._trusted))
        return self._champion[1]

    def model(self, run: TrainingRun) -> ModelState:
        """The global model after the last finished round."""
        parameters = np.frombuffer(self.store.artifact(run.id, PARAMETERS), np.float32).copy()
        moments = self.store.vector(run.id, MOMENTS).reshape(-1, parameters.size)
        return ModelState(parameters=parameters, moments=moments)

    def anchor(self, run: TrainingRun, fleet: ReleaseFleet, bundle: ModelBundle) -> NDArray[np.float32]:
        """What devices hold on to; raises as `champion.fetch_anchor` and `patiently`."""
        return self.patiently(lambda: champion.fetch_anchor(fleet, bundle, self._trusted), run)

    def anchors(self, run: TrainingRun) -> NDArray[np.float64]:
        """The parameters (2, P) within reach of which the run's model stays: the release it started from, and its anchor."""
        base = self.champion(run).parameters.astype(np.float64)
        try:
            held = np.frombuffer(self.store.artifact(run.id, ANCHOR), np.float32).astype(np.float64)
        except UnknownRunError:  # a run that an older build began
            held = base
        return np.stack([base, held])

    def group_sums(self, run: TrainingRun, kind: Kind) -> tuple[GroupSum, ...]:
        """The sums of the groups that are in the last sum of `kind`; none where that was of one cohort."""
        flat = self._vector_or_none(run, f"{kind} {GROUPS}")
        name = kind.partition(".")[2]
        rounds = [entry for entry in run.log if entry.kind == name and not entry.is_void]
        if flat is None or not rounds:
            return ()
        used = [group for group in rounds[-1].groups if not group.left_out]
        totals = flat.reshape(len(used), -1)
        return tuple(
            GroupSum(participants=group.participants, total=total)
            for group, total in zip(used, totals, strict=True)
        )

    def refit_sums(self, run: TrainingRun) -> dict[Kind, NDArray[np.float64]]:
        """What of the fleet's prior is summed so far."""
        found = {kind: self._vector_or_none(run, kind) for kind in REFIT_KINDS}
        return {kind: total for kind, total in found.items() if total is not None}

    def _vector_or_none(self, run: TrainingRun, name: str) -> NDArray[np.float64] | None:
        try:
            return self.store.vector(run.id, name)
        except UnknownRunError:
            return None

    def assessment(self, run: TrainingRun) -> Assessment:
        """What the federated evaluation said."""
        architecture = self.champion(run).architecture
        return read_assessment(
            self.store.vector(run.id, ASSESSMENT),
            tensors=architecture.tensor_count,
            features=architecture.feature_count,
        )

    def commit(
        self, run: TrainingRun, state: RunState, detail: str, artifacts: Mapping[str, bytes] | None = None
    ) -> TrainingRun:
        """Commit the next record with what its step made, in one transaction."""
        run = msgspec.structs.replace(run, state=state, detail=detail, updated_at=self._pacing.now())
        self.store.save(run, artifacts)
        return run

    def end(self, run: TrainingRun, state: RunState, detail: str) -> TrainingRun:
        """Commit the last record of a run; its artifacts go."""
        now = self._pacing.now()
        run = msgspec.structs.replace(run, state=state, detail=detail, updated_at=now, ended_at=now)
        self.store.save(run)
        _log.info("run_ended", run=run.id, state=state.value, detail=detail)
        return run
