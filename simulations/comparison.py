"""Was learning together worth it? Version 1, learning alone, and version 2 on rows that none of them was trained on.

For each recorded bearing: the device's own standardiser, fitted as the agent fits it; then the share of windows over
threshold in the settled part of its life (35-50 %, healthy and never trained on: false alarms) and in the last 5 %
(true alarms). Same data, same effort: the difference is the others. A control parts the two things that change with
version 2. What judges is what the release says:

    mixture   the detector that the device fits of its rows and the release's prior; alone: of its rows, without a prior.
              Control: version 1's prior with the newest rows. Where it does as well, the device's own rows did the work.
    network   the released int8 model with a personal threshold; alone: version 1, trained as many epochs on the same rows that
              the device contributed, with a threshold by the same rule from its own scores. Control: version 1's weights
              under a threshold from the fleet's summed score histogram. Where it does as well, the threshold did the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.release_keys import read_private_key
from edge_agent.settings import DetectionSettings
from models.bundles import ModelBundle, read_bundle
from models.detection.detector import fit_detector
from models.detection.prior import FleetPrior
from models.int8_model import Int8Model
from models.local_training import fit
from models.standardiser import Standardiser, fit_standardiser
from models.thresholds import personal_threshold
from models.training_model import TrainingModel
from protocol.bundle import TrustedKeys, open_bundle
from protocol.grids import SCORE_GRID
from simulations.machines import RecordedBearings
from simulations.observer import Observer
from simulations.scenario import Scenario
from simulations.world import World

__all__ = ["compare_on_recordings"]

Rows = NDArray[np.float32]
ShareOver = Callable[[Rows], float]


def compare_on_recordings(world: World, bearings: RecordedBearings, observer: Observer) -> dict[str, float]:
    """Percentages, averaged over the devices; keys say what they are."""
    trusted = TrustedKeys([read_private_key(world.plant.release_key, "signing_key").public_key()])
    first, second = (
        read_bundle(
            open_bundle(
                observer.publisher.download(f"/v1/releases/{world.scenario.family.name}/{v}/bundle"), trusted
            )
        )
        for v in (1, 2)
    )
    is_mixture = first.prior is not None
    control = first if is_mixture else _with_fleet_threshold(first, bearings, world)
    changed = "newest rows" if is_mixture else "fleet's threshold"
    control_name = f"control (version 1, {changed})"
    false_alarms: dict[str, list[float]] = {
        "version 1": [],
        "learning alone": [],
        "learned together": [],
        control_name: [],
    }
    found: dict[str, list[float]] = {name: [] for name in false_alarms}
    for index in range(len(world.devices)):
        healthy = bearings.rows(index, bearings.HEALTHY)
        own = fit_standardiser(_commissioning(healthy, world.scenario))
        reference, recent = own.apply(healthy), own.apply(bearings.rows(index, bearings.CHANGED))
        settled, broken = (
            own.apply(bearings.rows(index, part)) for part in (bearings.SETTLED, bearings.BROKEN)
        )
        all_rows, limits = np.concatenate([reference, recent]), world.scenario.detection
        for name, share_over in (
            ("version 1", _released(first, reference, own, limits)),
            ("learned together", _released(second, all_rows if is_mixture else recent, own, limits)),
            (control_name, _released(control, all_rows if is_mixture else recent, own, limits)),
            (
                "learning alone",
                _mixed(None, all_rows, own, limits)
                if is_mixture
                else _alone(first, all_rows, world.scenario),
            ),
        ):
            over_settled, over_broken = share_over(settled), share_over(broken)
            false_alarms[name].append(over_settled)
            found[name].append(over_broken)
    named = {
        f"mid-life false alarms, {k} (% of windows)": 100 * float(np.mean(v)) for k, v in false_alarms.items()
    }
    return named | {
        f"end of life found, {k} (% of windows)": 100 * float(np.mean(v)) for k, v in found.items()
    }


def _share_over(score: Callable[[Rows], NDArray[np.floating]], threshold: float) -> ShareOver:
    return lambda rows: float(np.mean(np.asarray(score(rows)) > threshold))


def _mixed(
    prior: FleetPrior | None, own_rows: Rows, own: Standardiser, limits: DetectionSettings
) -> ShareOver:
    detector = fit_detector(own_rows, own.scale, prior, limits.budget, limits.alarm_rules)
    return _share_over(detector.statistics, detector.promise.threshold)


def _released(bundle: ModelBundle, own_rows: Rows, own: Standardiser, limits: DetectionSettings) -> ShareOver:
    if bundle.prior is not None:
        return _mixed(bundle.prior, own_rows, own, limits)
    model = Int8Model(bundle.int8_model)

    def score(rows: Rows) -> NDArray[np.floating]:
        return np.asarray([model.infer_and_score(row)[1] for row in rows])

    return _share_over(score, personal_threshold(bundle.manifest.threshold, score(own_rows)).value)


def _with_fleet_threshold(bundle: ModelBundle, bearings: RecordedBearings, world: World) -> ModelBundle:
    """Version 1's weights, its threshold set as the aggregator sets one: from counts that were summed over devices."""
    model, counts = Int8Model(bundle.int8_model), np.zeros(SCORE_GRID.bins)
    for index in range(len(world.devices)):
        healthy = bearings.rows(index, bearings.HEALTHY)
        own = fit_standardiser(_commissioning(healthy, world.scenario))
        rows = own.apply(np.concatenate([healthy, bearings.rows(index, bearings.CHANGED)]))
        counts += SCORE_GRID.count(np.asarray([model.infer_and_score(row)[1] for row in rows]))
    rule = world.scenario.family.threshold
    score = SCORE_GRID.quantile(counts, rule.quantile) * rule.margin
    threshold = msgspec.structs.replace(bundle.manifest.threshold, score=score, fitted_on=int(counts.sum()))
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, threshold=threshold))


def _alone(start: ModelBundle, rows: Rows, scenario: Scenario) -> ShareOver:
    model = TrainingModel(start.training_model, start.architecture)
    family = scenario.family
    training, rule = family.training, family.threshold
    result = fit(
        model,
        start.parameters,
        rows,
        msgspec.structs.replace(training, epochs=training.epochs * family.rounds.count),
        rng=np.random.default_rng(scenario.seed),
    )
    model.restore(result.parameters)
    own = np.asarray(model.infer(rows)[1])
    threshold = float(np.quantile(own, rule.quantile)) * rule.margin
    return _share_over(lambda x: model.infer(x)[1], threshold)


def _commissioning(healthy: Rows, scenario: Scenario) -> Rows:
    """The first windows the agent saw: the healthy part, from its start, in a loop."""
    wanted = scenario.detection.commissioning_windows
    return np.resize(healthy, (wanted, healthy.shape[1])) if len(healthy) < wanted else healthy[:wanted]
