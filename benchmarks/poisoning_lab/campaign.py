"""One run of a fleet with poisoners in it, over the product's own parts: learner, encoding, checks of sums, groups, median, region, gate.

::

    LocalLearner.answer ─► words ─┐
    a lie, as words ──────────────┴─► sum of each group ─► check_sum ─► combine ─► project ─► … ─► assess ─► threshold ─► gate
                                      └ fewer than half of the groups left: void, and after three such attempts the run is stopped

What is left out is what a poisoner cannot change: Flower, masks, shares. `Layers` says what is in force; without the first, devices weigh
as many examples as they claim and an update may be as long as 10, as at 4dec79f, in numbers instead of words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.privacy.modes import FEWEST_GROUPS
from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    alarm_rate,
    fit_threshold,
    read_assessment,
)
from aggregator.rounds.combining import combine
from aggregator.rounds.gate import GateSettings, check_candidate, failed_reasons
from aggregator.rounds.groups import Memory, deal
from aggregator.rounds.reports import GroupSum
from aggregator.rounds.trust_region import project
from edge_agent.learner.anchor import Anchor
from edge_agent.learner.local_learner import LocalLearner
from models import reference_model
from poisoning_lab.attacks import Attack, View, lie_in_assessment, towards_faults
from poisoning_lab.fleets import MARGIN, QUANTILE, Member, Release, Works
from poisoning_lab.sums import MOST_EXAMPLES, RANDOM_WORDS, Answer, sum_answers
from protocol.grids import SCORE_GRID
from protocol.manifest import ThresholdSpec
from protocol.names import DeviceId
from protocol.questions import ASSESS, FIT, AnswerLayout, AssessQuestion, FitQuestion, Kind, Question, kind_of
from protocol.training import TrainingSettings
from runtime.errors import FedgeError

__all__ = ["ALL", "NONE", "Layers", "Outcome", "Poisoned", "deal_groups", "play", "poisoners_of"]

Float = NDArray[np.float64]
Rows = NDArray[np.float32]

ROUNDS: Final = 10
ATTEMPTS: Final = 3
GROUP: Final = 4
TODAYS_NORM: Final = 10.0
RUIN: Final = 1e4
LONG: Final = 2.0
"""Of a poisoner's update where devices may send one of 10: longer ones ruin a model instead of blinding it."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What stands between a poisoner and the release. `has_votes` is for the threshold alone, and does not change the model."""

    has_one_vote: bool = True
    is_checked: bool = True
    is_grouped: bool = True
    has_region: bool = True
    has_votes: bool = True


ALL: Final = Layers()
NONE: Final = Layers(
    has_one_vote=False, is_checked=False, is_grouped=False, has_region=False, has_votes=False
)


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """Which devices are poisoners, and what they do."""

    attack: Attack | None = None
    devices: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What devices would run: parameters (P,) and threshold; `stopped` says why there is no release, and then it is the one before."""

    parameters: Rows
    threshold: float
    distance: float
    groups_left_out: int = 0
    stopped: str = ""
    refused: tuple[str, ...] = field(default=())


Lie = Callable[[int, Sequence[int], Sequence[Mapping[str, Float]]], Mapping[str, Float]]
"""Of a poisoner, its group and all honest answers: the parts that it sends."""


class _VoidError(Exception):
    """Too few groups are left."""


def play(
    works: Works,
    fleet: Sequence[Member],
    release: Release,
    poisoned: Poisoned,
    layers: Layers,
    *,
    seed: int,
    profile: TrainingSettings | None = None,
) -> Outcome:
    """Train `ROUNDS` rounds, assess, fit the threshold, ask the gate."""
    run = _Run(works, fleet, release, poisoned, layers, seed, profile)
    w = release.parameters
    try:
        for number in range(1, ROUNDS + 1):
            w = run.train(w, number)
            if not np.isfinite(w).all() or np.abs(w).max() > RUIN:
                return run.stopped(f"round {number} ruins the model")
        return run.judged(w)
    except (_VoidError, SumError) as why:
        return run.stopped(str(why))


class _Run:
    def __init__(
        self,
        works: Works,
        fleet: Sequence[Member],
        release: Release,
        poisoned: Poisoned,
        layers: Layers,
        seed: int,
        profile: TrainingSettings | None,
    ) -> None:
        self.works, self.fleet, self.release, self.layers = works, fleet, release, layers
        self.attack, self.poisoners = poisoned.attack, poisoned.devices
        self.rng = np.random.default_rng([seed, 1])
        self.profile = profile or _profile(release)
        if not layers.has_one_vote:
            self.profile = structs.replace(self.profile, update_norm=TODAYS_NORM)
        self.faults = np.concatenate([machine.end for machine in works.machines])
        self.names = [DeviceId(f"d{i:03}") for i in range(len(fleet))]
        self.left_out = 0
        self.learners = [self._learner(i) for i in range(len(fleet))]
        self.groups = deal_groups(len(fleet), self.rng, is_grouped=layers.is_grouped)
        judging = int(np.ceil(GateSettings().judging_share * len(self.groups)))
        self.training = self.groups[: max(len(self.groups) - judging, FEWEST_GROUPS)]

    def train(self, w: Rows, number: int) -> Rows:
        """One round."""
        question = FitQuestion(
            run_id="r", round_number=number, layout_sha256=self._layout, profile_sha256=self.profile.sha256
        )
        arrays = {"parameters": w}
        if not self.layers.has_one_vote:
            return self._weighted_step(w, question)
        blinding = self._blinding(w)

        def lie(i: int, group: Sequence[int], honest: Sequence[Mapping[str, Float]]) -> Mapping[str, Float]:
            assert self.attack is not None
            limit = self.profile.update_norm or 1.0
            others = [_within(honest[j]["update"], limit) for j in group if j not in self.poisoners]
            view = View(
                honest=honest[i]["update"],
                blinding=blinding,
                update_norm=limit,
                members=len(group),
                poisoners=len(group) - len(others),
                others=np.sum(others, axis=0) if others else np.zeros(len(w)),
            )
            return {"update": self.attack.update(view), "votes": np.array([self.attack.votes])}

        sums = self._ask(question, arrays, lie, self.training)
        layout = self.learners[0].layout_of(FIT)
        step = layout.unpack(combine(FIT, layout, sums))["update"] / sum(
            len(one.participants) for one in sums
        )
        w = (w + step).astype(np.float32)
        if self.layers.has_region:
            w = project(w, self.release.parameters[None].astype(np.float64), self.profile.trust_radius or 0.0)
        return w

    def judged(self, w: Rows) -> Outcome:
        """The assessment, what follows from it, and what the gate says."""
        question = AssessQuestion(run_id="r", layout_sha256=self._layout, profile_sha256=self.profile.sha256)
        sums = self._ask(
            question, {"candidate": w}, lambda i, _group, honest: lie_in_assessment(honest[i]), self.groups
        )
        assessment = self._assessment(sums)
        trained = {self.names[i] for group in self.training for i in group}
        judges = [one for one in sums if not trained & set(one.participants)]
        compared = self._assessment(judges) if judges else assessment
        champion = ThresholdSpec(score=self.release.threshold, quantile=QUANTILE, margin=MARGIN, fitted_on=5)
        threshold = fit_threshold(assessment, ThresholdSettings(), champion).score
        checks = check_candidate(
            GateSettings(),
            candidate_loss=compared.candidate_loss,
            champion_loss=compared.champion_loss,
            alarm_rate=alarm_rate(assessment.candidate_scores, threshold),
            champion_alarm_rate=alarm_rate(assessment.champion_scores, champion.score),
            threshold=threshold,
        )
        found = self._outcome(w, threshold if self.layers.has_votes else self._pooled(w))
        return replace(found, refused=failed_reasons(checks))

    def stopped(self, why: str) -> Outcome:
        """No release: the one before goes on."""
        found = self._outcome(self.release.parameters, self.release.threshold)
        return replace(found, stopped=why)

    def _outcome(self, w: Rows, threshold: float) -> Outcome:
        return Outcome(
            parameters=w,
            threshold=threshold,
            distance=float(np.linalg.norm(w - self.release.parameters)),
            groups_left_out=self.left_out,
        )

    def _ask(
        self,
        question: Question,
        arrays: Mapping[str, Rows],
        lie: Lie,
        groups: Sequence[Sequence[int]],
    ) -> list[GroupSum]:
        """The sums of those of the groups whose sums can be."""
        kind = kind_of(question)
        layout = self.learners[0].layout_of(kind)
        honest = [self._honest(learner, layout, question, arrays) for learner in self.learners]
        for _ in range(ATTEMPTS):
            sums, why = [], ""
            for group in groups:
                try:
                    sums.append(self._group_sum(kind, layout, group, honest, lie))
                except AnswerRefusedError as refusal:
                    why = why or str(refusal)
            self.left_out += len(groups) - len(sums)
            if len(sums) >= max(np.ceil(len(groups) / 2), 1):
                return sums
        raise _VoidError(f"{ATTEMPTS} void attempts in a row; the last: {why}")

    def _assessment(self, sums: Sequence[GroupSum]) -> Assessment:
        architecture = self.works.architecture
        return read_assessment(
            combine(ASSESS, self.learners[0].layout_of(ASSESS), sums),
            tensors=architecture.tensor_count,
            features=architecture.feature_count,
        )

    def _honest(
        self, learner: LocalLearner, layout: AnswerLayout, question: Question, arrays: Mapping[str, Rows]
    ) -> Mapping[str, Float]:
        """A device's own answer; zeros where it has none, as under masks."""
        if self.layers.has_region:
            # No device refuses what the server makes of the sums.
            learner.check(question, arrays)
        try:
            return layout.unpack(learner.answer(question, arrays))
        except FedgeError:
            return layout.unpack(np.zeros(layout.total))
        finally:
            learner.settle()

    def _group_sum(
        self,
        kind: Kind,
        layout: AnswerLayout,
        group: Sequence[int],
        honest: Sequence[Mapping[str, Float]],
        lie: Lie,
    ) -> GroupSum:
        answers: list[Answer] = []
        for i in group:
            if i not in self.poisoners or self.attack is None or (self.attack.is_taught and kind == FIT):
                answers.append((honest[i], False))
            elif self.attack.is_noise and kind == FIT:
                answers.append((RANDOM_WORDS, True))
            else:
                answers.append((lie(i, group, honest), True))
        total = sum_answers(
            kind,
            layout,
            answers,
            norm_limit=self.profile.update_norm or 1.0,
            is_checked=self.layers.is_checked,
            rng=self.rng,
        )
        return GroupSum(participants=tuple(self.names[i] for i in group), total=total)

    def _weighted_step(self, w: Rows, question: FitQuestion) -> Rows:
        """As before there was a vote: each device weighs the examples that it claims, and clips to a norm of 10."""
        total, examples, blinding = np.zeros(len(w)), 0.0, self._blinding(w)
        for i, learner in enumerate(self.learners):
            layout = learner.layout_of(kind_of(question))
            update = self._honest(learner, layout, question, {"parameters": w})["update"]
            n = float(len(self.fleet[i].rows))
            if i in self.poisoners and self.attack is not None and not self.attack.is_taught:
                if self.attack.is_noise:
                    update = self.rng.normal(size=len(w)) * TODAYS_NORM
                else:
                    view = View(
                        honest=update,
                        blinding=blinding,
                        update_norm=LONG,
                        members=1,
                        poisoners=1,
                        others=np.zeros(len(w)),
                    )
                    update = self.attack.update(view)
                claimed = n if self.attack.votes == 1.0 else self.attack.votes
                # With no examples at all it still adds whatever it likes.
                total += update * (claimed if claimed > 0 else n)
                examples += claimed
            else:
                total, examples = total + n * update, examples + n
        step = total / (examples if abs(examples) >= 1 else 1.0)
        return np.asarray(w + step, np.float32)

    def _pooled(self, w: Rows) -> float:
        """The threshold of before: the pooled quantile, of which a liar claims as many windows as it may."""
        scores = [
            reference_model.infer(self.works.architecture, w, member.rows)[1]
            for i, member in enumerate(self.fleet)
            if i not in self.poisoners or self.attack is None
        ]
        counts = SCORE_GRID.count(np.concatenate(scores))
        if self.attack is not None:
            counts[-1] += 4096 * len(self.poisoners)
        return SCORE_GRID.quantile(counts, QUANTILE) * MARGIN

    def _learner(self, i: int) -> LocalLearner:
        rows, architecture = self.fleet[i].rows, self.works.architecture
        if self.attack is not None and self.attack.is_taught and i in self.poisoners:
            rows = self.faults[self.rng.permutation(len(self.faults))[: len(rows)]]
        coins = np.random.default_rng([int(self.rng.integers(2**31)), i])
        assert architecture.feature_count == rows.shape[1]
        return LocalLearner(
            self.works.model,
            rows,
            anchor=Anchor(
                release="works/1",
                layout_sha256=self._layout,
                columns="0" * 64,
                profile=self.profile,
                graph_sha256="0" * 64,
                values=self.release.parameters.astype("<f4").tobytes(),
            ),
            champion=self.release.parameters,
            maximum_examples=MOST_EXAMPLES,
            quantile=QUANTILE,
            random_bytes=coins.bytes,
        )

    def _blinding(self, w: Rows) -> Float:
        if self.attack is None or self.attack.is_taught or self.attack.is_noise or not self.poisoners:
            return np.zeros(len(w))
        return towards_faults(self.works.architecture, w, self.faults, self.rng)

    @property
    def _layout(self) -> str:
        return self.works.architecture.layout_sha256


def deal_groups(devices: int, rng: np.random.Generator, *, is_grouped: bool) -> list[list[int]]:
    """Who answers with whom, as the product deals them; all together without groups."""
    names = [DeviceId(f"d{i:03}") for i in range(devices)]
    dealt = deal(names, Memory(), rng, size=GROUP, fewest=3) if is_grouped else (names,)
    return [[names.index(name) for name in group] for group in dealt]


def poisoners_of(devices: int, poisoners: int, seed: int) -> frozenset[int]:
    """Who poisons, drawn by the seed."""
    chosen = np.random.default_rng([seed, devices]).choice(devices, poisoners, replace=False)
    return frozenset(chosen.tolist())


def _profile(release: Release) -> TrainingSettings:
    """The defaults of a family but for 5 epochs, as in the figures of docs/learning.md."""
    return TrainingSettings(epochs=5).settled(release.isolation.trust_radius)


def _within(vector: Float, norm: float) -> Float:
    length = float(np.linalg.norm(vector))
    return vector if length <= norm else vector * (norm / length)
