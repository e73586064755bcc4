"""The second half of a run, without devices: gate, int8 model, release, rollout.

Each method takes one step of the state machine drawn in `coordinator` and returns the committed record.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog

from aggregator.errors import FleetRefusedError
from aggregator.rounds import champion, proposal
from aggregator.rounds.assessment import Assessment, alarm_rate, read_assessment
from aggregator.rounds.attendance import Pacing
from aggregator.rounds.combining import combine
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.gate import check_candidate, check_int8, failed_reasons
from aggregator.rounds.int8_report import compare_int8
from aggregator.rounds.journal import BUNDLE, RunJournal
from aggregator.rounds.ports import Exporter, ReleaseFleet
from aggregator.rounds.prior_checks import check_prior, only_warn
from aggregator.rounds.provenance import with_method
from aggregator.rounds.refit import is_mixture, prior_from
from aggregator.rounds.release_checks import check_int8_model, check_sight, check_sums
from aggregator.rounds.runs import Check, RunState, TrainingRun
from aggregator.rounds.signing_gate import clear
from models.detection.prior import FleetPrior
from protocol.questions import ASSESS, assess_layout

__all__ = ["Releasing"]

_log = structlog.get_logger(__name__)


class Releasing:
    """Turns an evaluated candidate into a release.

    Args:
        journal: of the runs.
        fleet, exporter: the world (`aggregator.rounds.ports`).
        pacing: for the release's date.
        git_revision: for its provenance.
    """

    def __init__(
        self, journal: RunJournal, fleet: ReleaseFleet, exporter: Exporter, pacing: Pacing, git_revision: str
    ) -> None:
        self._journal, self._fleet, self._exporter = journal, fleet, exporter
        self._pacing, self._git_revision = pacing, git_revision

    def judge(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        """GATED: compare the candidate with the champion."""
        assessment = self._journal.assessment(run)
        base = self._journal.champion(run)
        reach = base.manifest.threshold
        threshold, rate = proposal.propose_threshold(assessment, policy.threshold, reach)
        compared, judges = self._judges(run, assessment)
        checks = check_candidate(
            policy.gate,
            candidate_loss=compared.candidate_loss,
            champion_loss=compared.champion_loss,
            judges=judges,
            alarm_rate=rate,
            champion_alarm_rate=alarm_rate(assessment.champion_scores, reach.score),
            threshold=threshold.score,
        )
        prior = self._prior(run, policy)
        found = proposal.sights(assessment, threshold, base.manifest.threshold)
        clipped, rows, learned = check_sums(
            assessment,
            architecture=base.architecture,
            threshold=threshold,
            features=base.manifest.features,
            is_exact=policy.privacy.noise is None,
        )
        sight = check_sight(
            *found,
            probes=float(assessment.candidate_probe_scores.sum()),
            is_classifier=base.architecture.is_classifier,
        )
        if prior is None:
            checks = (*checks, clipped, rows, learned, sight)
        else:
            network = {"improvement"} if run.rounds else set()
            strict, others = _split(checks, network)
            checks = (*strict, clipped, rows, *only_warn((*others, learned, sight)), check_prior(prior))
        run = msgspec.structs.replace(
            run,
            candidate_loss=assessment.candidate_loss,
            champion_loss=assessment.champion_loss,
            alarm_rate=rate,
            threshold=threshold.score,
            checks=checks,
        )
        if reasons := failed_reasons(checks):
            return self._journal.end(run, RunState.REJECTED_BY_GATE, "; ".join(reasons))
        return self._journal.commit(run, RunState.EXPORTING, "the candidate passed the gate")

    def export(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        """EXPORTING: quantise, measure, sign under the next version."""
        version = self._journal.patiently(lambda: champion.next_version(self._fleet, run.family), run)
        candidate = proposal.make_candidate(
            run,
            policy,
            champion=self._journal.champion(run),
            assessment=self._journal.assessment(run),
            parameters=self._journal.model(run).parameters,
            version=version,
            created_at=self._pacing.now(),
            git_revision=self._git_revision,
        )
        followed = policy.following(self._journal.champion(run).manifest.training)
        candidate = proposal.for_mixture(with_method(candidate, run, followed), self._prior(run, policy))
        int8_model = self._exporter.int8_model(candidate)
        report = compare_int8(candidate, int8_model, self._journal.assessment(run), seed=run.seed)
        _log.info("int8_compared", run=run.id, **report.evaluation())
        made = (
            *check_int8(policy.gate, report),
            *check_int8_model(candidate, int8_model, is_network=True, seed=run.seed),
        )
        made = made if candidate.prior is None else only_warn(made)
        # Of an earlier attempt at this step some may be there.
        kept = tuple(check for check in run.checks if check.name not in {new.name for new in made})
        run = msgspec.structs.replace(run, int8_error=report.output_error, checks=(*kept, *made))
        if reasons := failed_reasons(run.checks):
            return self._journal.end(run, RunState.REJECTED_BY_GATE, "; ".join(reasons))
        cleared = clear(proposal.with_evaluation(candidate, report.evaluation()), int8_model, run.checks)
        content = self._exporter.release(cleared)
        run = msgspec.structs.replace(run, release=f"{run.family}/{version}")
        return self._journal.commit(
            run, RunState.PUBLISHING, f"release {run.release} is built", {BUNDLE: content}
        )

    def _judges(self, run: TrainingRun, everybody: Assessment) -> tuple[Assessment, str]:
        """What the devices say that did not train, and how many they are; everybody where all did, or where there is one sum of all."""
        rounds = [entry for entry in run.log if not entry.is_void]
        # Whoever was asked to train judges nothing: a liar whose group is left out of the training would be the judge.
        fits = [entry for entry in run.log if entry.kind == "fit"]
        trained = {device for entry in fits for group in entry.groups for device in group.devices}
        architecture = self._journal.champion(run).architecture
        layout = assess_layout(architecture.tensor_count, architecture.feature_count)
        sums = [
            found
            for found in self._journal.group_sums(run, ASSESS)
            if not trained & set(found.participants) and layout.unpack(found.total)["examples"][0] >= 1
        ]
        asked = sum(len(entry.participants) for entry in rounds if entry.kind == "assess")
        if not sums:
            told = "the devices drawn" if run.privacy and run.privacy.hides_sizes else f"{asked} devices"
            return everybody, f"{told}, on windows that none of them trained on"
        total = combine(ASSESS, layout, sums)
        judges = sum(len(found.participants) for found in sums)
        found = read_assessment(total, tensors=architecture.tensor_count, features=architecture.feature_count)
        return found, f"{judges} devices of {asked} that did not train"

    def _prior(self, run: TrainingRun, policy: FamilySettings) -> FleetPrior | None:
        """What the release carries: the run's own prior, or the champion's; None where the network judges."""
        base = self._journal.champion(run)
        if not is_mixture(policy, base) or run.refit is None or not run.refit.devices:
            return base.prior if is_mixture(policy, base) else None
        sums, features = self._journal.refit_sums(run), base.architecture.feature_count
        fewest = policy.cohort.minimum_devices
        return prior_from(sums, features, minimum_devices=fewest, champion=base.prior)

    def publish(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        """PUBLISHING: hand the release to the fleet and start its rollout, if the family has a template."""
        content = self._journal.store.artifact(run.id, BUNDLE)
        try:
            self._journal.patiently(lambda: self._fleet.publish(content), run)
        except FleetRefusedError as refused:
            if refused.status != 409 or run.attempts + 1 >= policy.rounds.attempts:
                raise
            # Somebody published this version meanwhile: build the same candidate under the next number.
            run = msgspec.structs.replace(run, attempts=run.attempts + 1)
            return self._journal.commit(
                run, RunState.EXPORTING, f"{run.release} was taken; trying the next version"
            )
        if policy.rollout is None:
            return self._journal.end(run, RunState.COMPLETED, f"release {run.release} is published")
        return self._roll_out(run, policy.rollout)

    def _roll_out(self, run: TrainingRun, template: Mapping[str, object]) -> TrainingRun:
        release = str(run.release)
        name = f"{release} by {run.id}"
        try:
            rollout = self._journal.patiently(lambda: self._fleet.start_rollout(template, release, name), run)
        except FleetRefusedError as refused:
            # The release stands; only its rollout needs a person now.
            return self._journal.end(
                run,
                RunState.COMPLETED,
                f"release {release} is published, but its rollout was refused: {refused}",
            )
        run = msgspec.structs.replace(run, rollout=rollout)
        # what people reading the run must know: no device gets the release until somebody has said so
        became = (
            f"waits for a person: fedge-fleet rollouts approve {rollout}, then start it"
            if template.get("require_approval")
            else "started"
        )
        return self._journal.end(
            run, RunState.COMPLETED, f"release {release} is published and rollout {rollout} {became}"
        )


def _split(checks: tuple[Check, ...], names: set[str]) -> tuple[list[Check], list[Check]]:
    """(those of these names, the others)."""
    return [c for c in checks if c.name in names], [c for c in checks if c.name not in names]
