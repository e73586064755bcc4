"""How a release that was just made would do on each machine it was made of, in its last fifth, which no detector is fitted on.

::

    prior of the release + the first four fifths of a machine ─► its detector ─┬─► the last fifth: share of windows over the threshold
                                                                               └─► labelled faults: how many would open an alarm

What a device's own detector would do with the mixture. Where the network judges, the same is asked of the model and its threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.family_file import FamilySpec
from aggregator.machine_checks import Misfit
from models.bundles import ModelBundle
from models.detection.detector import FEWEST_ROWS, fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget
from models.int8_model import Int8Model
from models.sensors import SensorView
from models.settling import are_settled, unsettled
from models.standardiser import CLIP, Standardiser

__all__ = ["Fit", "fit_of_machines", "off_scale", "seen_faults"]

Rows = NDArray[np.float32]

_HELD_OUT: Final = 5
"""The last fifth, as of `aggregator.reference_prior`."""

_LONGEST: Final = 4
"""Times `commissioning_rows`: then a device takes the scale that it has, and says so."""

MOST_OVER: Final = 0.05
"""Share of held-out windows over the threshold: the default budget allows one alarm in 1,000 windows, of a few windows each."""

MOST_CLIPPED: Final = 0.10
"""Share of a column's values at the end of its scale: as much as the gate allows in all."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What became of each machine: share of its held-out windows over the threshold, and who does not fit."""

    over: Mapping[str, float]
    misfits: tuple[Misfit, ...]

    @property
    def sentence(self) -> str:
        """``fits: 4 of 4 machines``, or who does not and what to do."""
        strange = {misfit.machine for misfit in self.misfits}
        head = f"fits: {len(self.over) - len(strange)} of {len(self.over)} machines"
        return "\n".join([head, *(f"  {misfit}" for misfit in self.misfits)])


def fit_of_machines(spec: FamilySpec, machines: Mapping[str, Rows], bundle: ModelBundle) -> Fit:
    """Judge the last fifth of each machine's rows (n, F) by what its device would have after the first four."""
    names, over, misfits = spec.features.spec().names, dict[str, float](), list[Misfit]()
    for machine, raw in machines.items():
        own = _as_on_a_device(spec, raw)
        fitted, held_out = np.split(own.rows, [len(raw) - len(raw) // _HELD_OUT])
        is_over = _judge(spec, bundle, fitted, own.unit)(held_out)
        over[machine] = float(is_over.mean()) if len(held_out) else 0.0
        clipped = _most_clipped(own.rows, names)
        if clipped is not None:
            misfits.append(_beyond_scale(machine, *clipped, own.commissioned_on))
        elif over[machine] > MOST_OVER:
            misfits.append(_changed(machine, over[machine], fitted, held_out[is_over], names))
    return Fit(over=over, misfits=tuple(misfits))


def off_scale(spec: FamilySpec, machines: Mapping[str, Rows]) -> list[Misfit]:
    """The machines that leave the scale of their first rows, where so many values do that the gate signs nothing (n, F)."""
    sensors, names = SensorView(spec.features.spec()), spec.features.spec().names
    first = spec.commissioning_rows
    rows = {m: sensors.standardise(raw, sensors.fit_scale(raw[:first])) for m, raw in machines.items()}
    if np.concatenate([np.abs(one).ravel() >= CLIP for one in rows.values()]).mean() <= MOST_CLIPPED:
        return []
    found = {machine: _most_clipped(one, names) for machine, one in rows.items()}
    return [_beyond_scale(machine, *worst, first) for machine, worst in found.items() if worst is not None]


def seen_faults(
    spec: FamilySpec,
    machines: Mapping[str, Rows],
    faulty: Mapping[str, Sequence[Rows]],
    prior: FleetPrior,
) -> tuple[int, int]:
    """(seen, all) labelled faults: an alarm would have opened within them, by a detector of all the machine's healthy rows."""
    seen = events = 0
    sensors = SensorView(spec.features.spec())
    for machine, raw in machines.items():
        own = _as_on_a_device(spec, raw)
        if len(raw) < FEWEST_ROWS:
            continue
        detector = fit_detector(own.rows, own.unit, prior, AlarmBudget(), AlarmRules())
        for event in faulty.get(machine, ()):
            events += 1
            statistics = detector.statistics(sensors.standardise(event, own.scale))
            seen += bool((statistics > detector.promise.threshold).any())
    return seen, events


class _Own(NamedTuple):
    """A machine's rows (n, F) in its own scale, that scale, its units (F,), and the windows that it came of."""

    rows: Rows
    scale: Standardiser
    unit: NDArray[np.float64]
    commissioned_on: int


def _as_on_a_device(spec: FamilySpec, raw: Rows) -> _Own:
    """Commissioned as a device does: on the first windows, and further as long as the estimates move, to four times as many."""
    sensors, windows = SensorView(spec.features.spec()), spec.commissioning_rows
    longest = min(_LONGEST * windows, len(raw))
    while True:
        scale = sensors.fit_scale(raw[:windows])
        settled = are_settled(unsettled(sensors.watch(sensors.standardise(raw[:windows], scale))))
        if settled or windows >= longest:
            rows = sensors.standardise(raw, scale)
            return _Own(rows=rows, scale=scale, unit=sensors.scale_of(scale)[1], commissioned_on=windows)
        windows = min(windows + max(10, windows // 10), longest)


def _most_clipped(rows: Rows, names: Sequence[str]) -> tuple[str, float] | None:
    """The column of standardised rows (n, F) that is most at the end of its scale, and its share; None where none is often."""
    shares = (np.abs(rows) >= CLIP).mean(axis=0)
    worst = int(np.argmax(shares))
    return (names[worst % len(names)], float(shares[worst])) if shares[worst] > MOST_CLIPPED else None


def _judge(
    spec: FamilySpec, bundle: ModelBundle, fitted: Rows, unit: NDArray[np.float64]
) -> Callable[[Rows], NDArray[np.bool_]]:
    if bundle.prior is None or len(fitted) < FEWEST_ROWS:
        model = Int8Model(bundle.int8_model, spec.model.kind)
        threshold = bundle.manifest.threshold.score
        return lambda rows: np.array([model.infer_and_score(row)[1] > threshold for row in rows], np.bool_)
    detector = fit_detector(fitted, unit, bundle.prior, AlarmBudget(), AlarmRules())
    return lambda rows: np.asarray(detector.statistics(rows) > detector.promise.threshold)


def _beyond_scale(machine: str, column: str, share: float, commissioning_rows: int) -> Misfit:
    return Misfit(
        machine=machine,
        column=column,
        reason=f"{share:.0%} of its values are beyond the scale that its first {commissioning_rows} rows show",
        remedy="give a recording that begins with the machine running as it mostly does, raise commissioning_rows in the family's file,"
        f" or leave the column out: --answer 'column:{column}=leave out'",
    )


def _changed(machine: str, over: float, fitted: Rows, held_out: Rows, names: Sequence[str]) -> Misfit:
    spread = fitted.std(axis=0) + 1e-6
    furthest = int(np.argmax(np.abs(held_out - fitted.mean(axis=0)).mean(axis=0) / spread))
    return Misfit(
        machine=machine,
        column=names[furthest % len(names)],
        reason=f"{over:.0%} of the windows in its last fifth would be in alarm, mostly by this column: it runs otherwise there than before",
        remedy="if that is normal, give a longer recording with both; if not, leave that time out",
    )
