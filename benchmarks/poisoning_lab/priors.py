"""The fleet's prior with poisoners in the sums: what judges by default. Same words, checks, groups and medians as a model's update.

    evaluate.scale ─► evaluate.covariance ─► evaluate.curve, each group told what the others know ─► prior ─► a detector for each machine

A poisoner lies in any of the three: sensors that vary a thousand times as much; a mean that wanders anywhere, so that nothing it does is
strange; correlations of faults; alarms that never open, of ten thousand windows, or always. A run that is stopped leaves the prior of
the reference machines in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.reference_prior import prior_of
from aggregator.rounds.combining import combine
from aggregator.rounds.prior_checks import check_prior
from aggregator.rounds.refit import prior_from
from aggregator.rounds.reports import GroupSum
from edge_agent.learner.prior_answers import PriorQuestion, answer_prior
from models.detection.answers import read_scale, read_spread, scale_arrays, spread_parts
from models.detection.detector import fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget
from models.detection.scale import ScalePrior
from models.errors import ModelError
from poisoning_lab.campaign import deal_groups, poisoners_of
from poisoning_lab.figures import Figure, quality
from poisoning_lab.fleets import Member, Works
from poisoning_lab.sums import MOST_EXAMPLES, RANDOM_WORDS, sum_answers
from protocol.grids import AGES
from protocol.names import DeviceId
from protocol.questions import (
    COVARIANCE,
    CURVE,
    SCALE,
    AnswerLayout,
    CovarianceQuestion,
    CurveQuestion,
    Kind,
    ScaleQuestion,
    answer_layout,
)
from protocol.secure_answers import WANDER_LIMIT
from runtime.errors import FedgeError

__all__ = ["LAYERS", "PRIOR_ATTACKS", "PriorAttack", "run_mixture"]

Float = NDArray[np.float64]
Parts = Mapping[str, Float]
Lie = Callable[[Parts], Parts]

FEWEST: Final = 3


@dataclass(frozen=True, kw_only=True)
class PriorLayers:
    """What stands between a poisoner and the prior."""

    is_checked: bool
    is_grouped: bool
    is_clamped: bool


LAYERS: Final = {
    "as at 4dec79f": PriorLayers(is_checked=False, is_grouped=False, is_clamped=False),
    "+ sum checks": PriorLayers(is_checked=True, is_grouped=False, is_clamped=False),
    "+ groups, median": PriorLayers(is_checked=True, is_grouped=True, is_clamped=False),
    "+ clamp": PriorLayers(is_checked=True, is_grouped=True, is_clamped=True),
}


@dataclass(frozen=True, kw_only=True)
class PriorAttack:
    """What becomes of the honest parts of each question; None: nothing."""

    name: str
    scale: Lie | None = None
    covariance: Lie | None = None
    curve: Lie | None = None


def _varies_more(parts: Parts) -> Parts:
    known = parts["scale_devices"]
    logs = parts["scale_logs"] + known * 2 * np.log(1000.0)
    return {**parts, "scale_logs": logs, "scale_squares": logs**2}


def _wanders(parts: Parts) -> Parts:
    features = int(np.sqrt(8 * len(parts["wander"]) + 1) - 1) // 2
    everywhere = (WANDER_LIMIT * np.eye(features))[np.triu_indices(features)]
    return {**parts, "wander": everywhere}


def _is_alike(parts: Parts) -> Parts:
    """All sensors move as one: whatever moves one alone is strange, and what moves all is not."""
    ones = np.ones(len(parts["correlation"]))
    return {**parts, "correlation": ones, "spread_squares": np.ones(1), "spread_error": np.zeros(1)}


def _opens(share: float) -> Lie:
    def lie(parts: Parts) -> Parts:
        found = dict(parts)
        for age in AGES:
            if not parts[f"age_devices_{age}"][0]:
                continue
            windows = float(MOST_EXAMPLES)
            found[f"age_windows_{age}"] = np.array([windows])
            found[f"openings_{age}"] = np.full_like(parts[f"openings_{age}"], np.floor(share * windows))
            found[f"in_alarm_{age}"] = np.full_like(
                parts[f"in_alarm_{age}"], np.floor(min(4 * share, 1.0) * windows)
            )
            found[f"openings_squares_{age}"] = found[f"openings_{age}"][::4] ** 2 / windows
        return found | {"examples": np.array([float(MOST_EXAMPLES)])}

    return lie


def _random(_parts: Parts) -> Parts:
    return RANDOM_WORDS


PRIOR_ATTACKS: Final[tuple[PriorAttack, ...]] = (
    PriorAttack(name="scale x1000", scale=_varies_more),
    PriorAttack(name="wander", covariance=_wanders),
    PriorAttack(name="sensors as one", covariance=_is_alike),
    PriorAttack(name="never opens", curve=_opens(0.0)),
    PriorAttack(name="always opens", curve=_opens(0.25)),
    PriorAttack(name="deaf", scale=_varies_more, covariance=_wanders, curve=_opens(0.25)),
    PriorAttack(name="wrap", scale=_random, covariance=_random, curve=_random),
)


def run_mixture(
    works: Works, fleets: Sequence[tuple[int, int]], seeds: int, *, is_small: bool
) -> Iterator[Figure]:
    """Each fleet clean and under each attack, with each set of layers."""
    attacks = [attack for attack in PRIOR_ATTACKS if not is_small or attack.name == "deaf"]
    for seed in range(seeds):
        before = prior_of([(m.healthy, np.asarray(m.scale.scale)) for m in works.references(seed)])
        for devices, poisoners in fleets:
            fleet = works.fleet(devices, seed)
            chosen = poisoners_of(devices, poisoners, seed)
            for name, layers in LAYERS.items():
                for attack in (None, *attacks):
                    run = _PriorRun(fleet, attack, chosen if attack else frozenset(), layers, seed)
                    why, gate = "", ""
                    try:
                        with np.errstate(all="ignore"):
                            prior = run.prior(before)
                        found = check_prior(prior)
                        gate = "" if found.is_passed else found.reason
                    except (SumError, ModelError) as error:
                        prior, why = before, str(error)
                    ap, recall, false_alarms = _judge(works, before if gate else prior)
                    yield Figure(
                        set=works.name,
                        detector="mixture",
                        devices=devices,
                        poisoners=poisoners if attack else 0,
                        attack=attack.name if attack else "none",
                        layers=name,
                        seed=seed,
                        ap=ap,
                        recall=recall,
                        false_alarms=false_alarms,
                        released=not why and not gate,
                        gate=gate,
                        distance=0.0,
                        why=why,
                    )


def _judge(works: Works, prior: FleetPrior) -> tuple[float, float, float]:
    scores, thresholds = [], []
    for machine in works.machines:
        detector = fit_detector(
            machine.healthy, np.asarray(machine.scale.scale), prior, AlarmBudget(), AlarmRules()
        )
        scores.append((detector.statistics(machine.quiet), detector.statistics(machine.end)))
        thresholds.append(detector.promise.threshold)
    return quality(scores, thresholds)


class _PriorRun:
    def __init__(
        self,
        fleet: Sequence[Member],
        attack: PriorAttack | None,
        poisoners: frozenset[int],
        layers: PriorLayers,
        seed: int,
    ) -> None:
        self.fleet, self.attack, self.poisoners, self.layers = fleet, attack, poisoners, layers
        self.rng = np.random.default_rng([seed, 2])
        self.features = fleet[0].rows.shape[1]
        self.groups = deal_groups(len(fleet), self.rng, is_grouped=layers.is_grouped)

    def prior(self, champion: FleetPrior) -> FleetPrior:
        """All three questions; raises SumError where one is void for good."""
        about = {"run_id": "r", "layout_sha256": "x", "profile_sha256": "y"}
        lie = self.attack or PriorAttack(name="none")
        scales = self._ask(SCALE, lambda _group: (ScaleQuestion(**about), {}), lie.scale)
        scale = combine(SCALE, self._layout(SCALE), scales)
        arrays = scale_arrays(ScalePrior.of(read_scale(self._layout(SCALE).unpack(scale))))
        spreads = self._ask(COVARIANCE, lambda _group: (CovarianceQuestion(**about), arrays), lie.covariance)
        spread = combine(COVARIANCE, self._layout(COVARIANCE), spreads)

        def about_curve(group: Sequence[int]) -> tuple[PriorQuestion, Mapping[str, NDArray[np.float32]]]:
            names = {_name(i) for i in group}
            others = [found for found in spreads if not names & set(found.participants)]
            known = combine(COVARIANCE, self._layout(COVARIANCE), others) if others else spread
            sums = read_spread(self._layout(COVARIANCE).unpack(known), self.features)
            parts = spread_parts(sums)
            question = CurveQuestion(
                **about,
                devices=max(round(sums.devices), 1),
                squares=max(sums.squares, 0.0),
                error=max(sums.error, 0.0),
            )
            question = structs.replace(question, holds_own=not others)
            return question, arrays | {n: parts[n].astype(np.float32) for n in ("correlation", "wander")}

        curves = self._ask(CURVE, about_curve, lie.curve)
        curve = combine(CURVE, self._layout(CURVE), curves)
        return prior_from(
            {SCALE: scale, COVARIANCE: spread, CURVE: curve},
            self.features,
            minimum_devices=FEWEST,
            champion=champion if self.layers.is_clamped else None,
        )

    def _ask(
        self,
        kind: Kind,
        put: Callable[[Sequence[int]], tuple[PriorQuestion, Mapping[str, NDArray[np.float32]]]],
        lie: Lie | None,
    ) -> list[GroupSum]:
        sums, why = [], ""
        for group in self.groups:
            question, arrays = put(group)
            answers = []
            for i in group:
                parts = self._honest(kind, i, question, arrays)
                is_lie = lie is not None and i in self.poisoners
                answers.append((lie(parts) if lie is not None and is_lie else parts, is_lie))
            try:
                total = sum_answers(
                    kind,
                    self._layout(kind),
                    answers,
                    norm_limit=1.0,
                    is_checked=self.layers.is_checked,
                    rng=self.rng,
                )
            except AnswerRefusedError as refusal:
                why = why or str(refusal)
                continue
            sums.append(GroupSum(participants=tuple(map(_name, group)), total=total))
        if len(sums) < max(np.ceil(len(self.groups) / 2), 1):
            raise SumError(f"void: {len(sums)} of {len(self.groups)} groups are left: {why}")
        return sums

    def _honest(
        self, kind: Kind, i: int, question: PriorQuestion, arrays: Mapping[str, NDArray[np.float32]]
    ) -> Parts:
        """A device's own answer; zeros where it has none, as under masks."""
        member, layout = self.fleet[i], self._layout(kind)
        try:
            return answer_prior(question, arrays, member.rows, np.asarray(member.machine.scale.scale))
        except FedgeError:
            return layout.unpack(np.zeros(layout.total))

    def _layout(self, kind: Kind) -> AnswerLayout:
        return answer_layout(kind, parameter_count=1, tensor_count=1, feature_count=self.features)


def _name(i: int) -> DeviceId:
    return DeviceId(f"d{i:03}")
