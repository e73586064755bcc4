"""Whether so many devices can have given a sum: what a liar must not be able to say, checked without looking at anybody's answer.

Under a secure sum one device can make the sum any words at all. Nobody sees its answer, but a sum of honest answers has properties
that follow from what each device adds: there are no more votes than devices, a histogram counts each window once, a mean lies within
its histogram, a matrix of correlations has no negative variance. A sum without them is left out, by the name of the rule; it costs no
privacy, for only the sum is read. A single answer in plain is a sum of one.

A liar within these rules moves a sum as far as devices of other machines could. That is for the median of groups (`combining`).

Tolerances: what fixed point rounds is known (`Precision.steps`); under noise each rule allows `_STDS` standard deviations of it.

Pure. The rules are a closed table: a part that no rule knows is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError
from models.detection.answers import square
from protocol.grids import AGES, FEATURE_GRID, RANGE_GRID, SCORE_GRID, SQUARED, Grid
from protocol.questions import ASSESS, COVARIANCE, CURVE, FIT, SCALE, Kind
from protocol.secure_answers import FEATURE_LIMIT, LOSS_LIMIT, Precision, part_bound

__all__ = ["RULES", "check_sum"]

Floats = NDArray[np.float64]

_STDS: Final = 7.0
"""Of noise that an honest sum may be off at one entry: of 10,000 entries one is further off in ten million rounds."""

_HALF: Final = 0.5
"""Counts are whole numbers; they travel as float32, which is exact up to 16 million."""

_FLOAT32: Final = 1e-5
"""Relative: answers are float32, and were sums before they were."""

_OPENINGS_SHARE: Final = 0.25
"""Openings a window: an alarm takes six windows, or is the only one in a stretch of four."""

_FEWEST_SPREAD: Final = 8
"""Windows from which a device says how its sensors vary together (`models.detection.spread.FEWEST_ROWS`)."""

_SIGNED: Final = frozenset({"update", "scale_logs", "correlation", "wander", "feature_sum"})
_HISTOGRAMS: Final = (
    "candidate_scores",
    "champion_scores",
    "candidate_probe_scores",
    "champion_probe_scores",
)
_RANGES: Final = ("range_low", "range_high")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sum:
    """The named `parts` of a sum over `devices`, and how exact it is."""

    parts: Mapping[str, Floats]
    devices: int
    precision: Precision

    def __getitem__(self, name: str) -> Floats:
        return self.parts[name]

    def one(self, name: str) -> float:
        return float(self.parts[name][0])

    @property
    def most_examples(self) -> float:
        """Of one device."""
        return float(self.precision.maximum_examples)

    @property
    def is_exact(self) -> bool:
        return not self.precision.noise_stds

    def slack(self, name: str, entries: int = 1) -> float:
        """By how much a sum of so many entries of a part may be off."""
        step = self.precision.steps.get(name, 0.0)
        rounding = _HALF / 2 if step >= 1.0 else self.devices * entries * step
        return rounding + _STDS * self.noise_std(name) * math.sqrt(entries)

    def noise_std(self, name: str) -> float:
        """Of each entry: more devices than were planned for bring more noise."""
        return self.precision.noise_stds.get(name, 0.0) * math.sqrt(self.devices)


Complaints = Iterator[str]
Rule = Callable[[_Sum], Complaints]


def check_sum(kind: Kind, parts: Mapping[str, Floats], devices: int, precision: Precision) -> None:
    """Refuse a sum that `devices` honest answers to a question of `kind` cannot have added up to.

    Args:
        kind: of the question.
        parts: the decoded sum by the names of its layout, noise still in.
        devices: whose answers are in it.
        precision: of the encoding.

    Raises:
        AnswerRefusedError: names the rule first, then the value and what would be valid.
    """
    found = _Sum(parts=parts, devices=devices, precision=precision)
    for name, rule in RULES[kind].items():
        for complaint in rule(found):
            raise AnswerRefusedError(f"{name}: {complaint}")


def _bounds(found: _Sum) -> Complaints:
    """Entry by entry: nobody adds more than the part's bound."""
    for name, values in found.parts.items():
        bound = part_bound(
            name,
            maximum_examples=found.precision.maximum_examples,
            norm_limit=found.precision.norm_limit,
        ).bound
        most = found.devices * bound * (1 + _FLOAT32) + found.slack(name)
        least = -most if name in _SIGNED else -found.slack(name)
        if values.min(initial=0.0) < least or values.max(initial=0.0) > most:
            yield (
                f"{name} goes from {values.min():.6g} to {values.max():.6g}; of {found.devices} devices it lies within"
                f" {0 if name not in _SIGNED else -found.devices * bound:g} and {found.devices * bound:g}"
            )


def _votes(found: _Sum) -> Complaints:
    if not -_HALF <= found.one("votes") <= found.devices + _HALF:
        yield f"{found.one('votes'):g} votes of {found.devices} devices; each has one"


def _norm(found: _Sum) -> Complaints:
    limit = max(found.one("votes"), 0.0) * found.precision.norm_limit
    size = found["update"].size
    rounding = found.devices * found.precision.steps.get("update", 0.0) * math.sqrt(size)
    noise = found.noise_std("update") * (math.sqrt(size) + _STDS)
    length = float(np.linalg.norm(found["update"]))
    if length > limit * (1 + _FLOAT32) + rounding + noise:
        yield f"the updates' sum has norm {length:.4g}; {found.one('votes'):g} votes of {found.precision.norm_limit:g} reach {limit:.4g}"


def _scale_counts(found: _Sum) -> Complaints:
    known = found["scale_devices"]
    if known.max() > found.one("examples") + _HALF:
        yield f"{known.max():g} devices know a sensor from {found.one('examples'):g} windows; each has at least one"


def _scale_moments(found: _Sum) -> Complaints:
    """Of each sensor: a mean square is no less than the mean squared, and who knows nothing adds nothing."""
    known, logs, squares = (found[f"scale_{name}"] for name in ("devices", "logs", "squares"))
    off = found.slack("scale_squares") + 2 * np.abs(logs) / np.maximum(known, 1.0) * found.slack("scale_logs")
    if (squares + off + _FLOAT32 * np.abs(squares) < logs**2 / np.maximum(known, 1.0)).any():
        yield "squares of logarithms are smaller than their sum allows; Σx² is at least (Σx)²/n"
    nobody = known < _HALF
    for name in ("scale_logs", "scale_squares", "scale_uncertainty"):
        if (np.abs(found[name][nobody]) > found.slack(name)).any():
            yield f"{name} is not 0 where no device knows the sensor"
        if (
            np.abs(found[name])
            > known * part_bound(name, maximum_examples=1).bound * (1 + _FLOAT32) + found.slack(name)
        ).any():
            yield f"{name} is larger than the devices that know the sensor can add"


def _spread_counts(found: _Sum) -> Complaints:
    known = found.one("spread_devices")
    if known * _FEWEST_SPREAD > found.one("examples") + _HALF:
        yield (
            f"{known:g} devices say how sensors vary together, of {found.one('examples'):g} windows;"
            f" each needs {_FEWEST_SPREAD}"
        )


def _correlations(found: _Sum) -> Complaints:
    """Ones on each device's diagonal, nothing beyond, no negative variance."""
    known, slack = found.one("spread_devices"), found.slack("correlation") + _FLOAT32 * found.devices
    matrix = square(found["correlation"])
    if (np.abs(np.diagonal(matrix) - known) > slack).any():
        yield f"the diagonal goes from {np.diagonal(matrix).min():.6g} to {np.diagonal(matrix).max():.6g}; {known:g} devices add one each"
    if np.abs(matrix).max() > known + slack:
        yield f"a correlation of {np.abs(matrix).max():.6g}; {known:g} devices add at most one each"
    if np.linalg.eigvalsh(matrix)[0] < -slack * len(matrix):
        yield "no devices' correlations add up to these: a mixture of sensors would have a negative variance"


def _spread_moments(found: _Sum) -> Complaints:
    known, squares = found.one("spread_devices"), found.one("spread_squares")
    if known < _HALF:
        for name in ("correlation", "wander", "spread_squares", "spread_error"):
            if np.abs(found[name]).max() > found.slack(name):
                yield f"{name} is not 0 though no device says how its sensors vary together"
        return
    least = float(np.square(square(found["correlation"])).mean()) / known
    slack = found.slack("spread_squares") + 3 * (found.slack("correlation") + _FLOAT32 * found.devices)
    if not least - slack <= squares <= known + slack:
        yield f"mean squares of correlations add up to {squares:.6g}; of these correlations they lie within {least:.6g} and {known:g}"
    if found.one("spread_error") > known + found.slack("spread_error") + _FLOAT32:
        yield f"errors of correlations add up to {found.one('spread_error'):.6g}; {known:g} devices add at most one each"


def _wander(found: _Sum) -> Complaints:
    matrix = square(found["wander"])
    bound = part_bound("wander", maximum_examples=1).bound
    # Where a device has cut an entry to its bound the matrix need not be a covariance any more.
    if np.abs(matrix).max() >= bound:
        return
    slack = (found.slack("wander") + _FLOAT32 * float(np.abs(matrix).max(initial=0.0))) * len(matrix)
    if np.linalg.eigvalsh(matrix)[0] < -slack:
        yield "no devices' wanders add up to this: a mixture of sensors would have a negative variance"


def _curve_counts(found: _Sum) -> Complaints:
    """A device of one age counts at all younger ones; it is as old as four fifths of its windows."""
    examples, younger = found.one("examples"), float(found.devices)
    for age in AGES:
        known, windows = found.one(f"age_devices_{age}"), found.one(f"age_windows_{age}")
        if not 0 <= known <= younger + _HALF:
            yield f"{known:g} devices are {age} windows old, and {younger:g} are at least as young"
        if known * age * 5 / 4 > examples + known + _HALF:
            yield f"{known:g} devices of {examples:g} windows are {age} windows old; each needs {age * 5 / 4:g}"
        if not known - _HALF <= windows <= examples + _HALF or (known < _HALF <= windows):
            yield f"{known:g} devices that are {age} windows old count on {windows:g} windows; they have {examples:g}"
        younger = known


def _openings(found: _Sum) -> Complaints:
    """Each opening is in alarm for a window at least, and what is in alarm at a level is so at each lower one."""
    for age in AGES:
        windows = found.one(f"age_windows_{age}")
        openings, in_alarm = found[f"openings_{age}"], found[f"in_alarm_{age}"]
        squares = found[f"openings_squares_{age}"]
        if openings.max() > _OPENINGS_SHARE * windows + _HALF:
            yield f"{openings.max():g} openings on {windows:g} windows at age {age}; there is at most one in four"
        if in_alarm.max() > windows + _HALF or (openings > in_alarm + _HALF).any():
            yield f"windows in alarm at age {age} are more than all {windows:g}, or fewer than openings"
        if (np.diff(in_alarm) > _HALF).any():
            yield f"more windows are in alarm at a higher level of age {age} than at a lower"
        counted, slack = openings[::SQUARED], found.slack(f"openings_squares_{age}")
        least, most = counted**2 / max(windows, 1.0), _OPENINGS_SHARE * counted
        if (squares < least * (1 - _FLOAT32) - slack).any() or (
            squares > most * (1 + _FLOAT32) + slack
        ).any():
            yield f"squares of openings at age {age} do not go with the openings; ΣC²/N lies within (ΣC)²/ΣN and ΣC/4"


def _ranges(found: _Sum) -> Complaints:
    """Each device that answers has one lowest and one highest value of each tensor, and the lowest is not above the highest."""
    low, high = (found[name].reshape(-1, RANGE_GRID.bins) for name in _RANGES)
    slack = max(found.slack(name, RANGE_GRID.bins) for name in _RANGES)
    totals = np.concatenate([low.sum(axis=1), high.sum(axis=1)])
    if np.ptp(totals) > 2 * slack:
        yield f"of some tensor {totals.min():g} devices have a range, of another {totals.max():g}; each has one of all"
    if totals.max() > found.devices + slack or totals.min() < -slack:
        yield f"{totals.min():g} to {totals.max():g} ranges of {found.devices} devices; each has one"
    if (np.cumsum(low, axis=1) < np.cumsum(high, axis=1) - 2 * slack).any():
        yield "more devices' highest values than lowest values lie below some bound"


def _examples(found: _Sum) -> Complaints:
    """Who answers has at least one window held out, and at most as many as count."""
    examples, voters = found.one("examples"), float(found["range_low"][: RANGE_GRID.bins].sum())
    if found.is_exact and not voters - _HALF <= examples <= voters * found.most_examples + _HALF:
        yield f"{examples:g} windows of {voters:g} devices that answered; each has 1 to {found.most_examples:g}"


def _histograms(found: _Sum) -> Complaints:
    """Each window is counted once in each."""
    examples = found.one("examples")
    features = found["feature_counts"].reshape(-1, FEATURE_GRID.bins).sum(axis=1)
    totals = {name: found[name].sum(keepdims=True) for name in _HISTOGRAMS} | {"feature_counts": features}
    for name, counted in totals.items():
        slack = found.slack(name, FEATURE_GRID.bins if name == "feature_counts" else SCORE_GRID.bins)
        # Under noise a device that could not answer counts as one, and adds nothing.
        least = examples if found.is_exact else 0.0
        if counted.min() < least - slack or counted.max() > examples + slack:
            yield f"{name} counts {counted.min():.6g} to {counted.max():.6g} of {examples:.6g} windows; each is counted once"


def _threshold(found: _Sum) -> Complaints:
    """Each device that answers votes once."""
    votes, voters = float(found["threshold_votes"].sum()), float(found["range_low"][: RANGE_GRID.bins].sum())
    slack = found.slack("threshold_votes", SCORE_GRID.bins) + found.slack("range_low", RANGE_GRID.bins)
    if abs(votes - voters) > slack:
        yield f"{votes:g} votes for a threshold of {voters:g} devices that answered; each has one"


def _losses(found: _Sum) -> Complaints:
    """A sum of scores lies within its histogram."""
    for model in ("candidate", "champion"):
        loss, slack = found.one(f"{model}_loss"), found.slack(f"{model}_loss")
        largest = found.most_examples * LOSS_LIMIT
        least, most = _within(SCORE_GRID, found[f"{model}_scores"], 0.0, largest)
        least = min(least, largest)  # which a device cuts its own to
        if found.is_exact and not least * (1 - _FLOAT32) - slack <= loss <= most * (1 + _FLOAT32) + slack:
            yield f"{model}_loss is {loss:.6g}; the scores that were counted add up to {least:.6g} to {most:.6g}"


def _moments(found: _Sum) -> Complaints:
    """Of each feature: its sum lies within its histogram, and a mean square is no less than the mean squared."""
    examples = max(found.one("examples"), 1.0)
    total, squares = found["feature_sum"], found["feature_squares"]
    off = found.slack("feature_sum")
    least_square = np.maximum(np.abs(total) - off, 0.0) ** 2 / examples
    if (squares * (1 + _FLOAT32) + found.slack("feature_squares") < least_square).any():
        yield "squares of a feature are smaller than its sum allows; Σx² is at least (Σx)²/n"
    if not found.is_exact:
        return
    for feature, counts in enumerate(found["feature_counts"].reshape(-1, FEATURE_GRID.bins)):
        least, most = _within(FEATURE_GRID, counts, -FEATURE_LIMIT, FEATURE_LIMIT)
        allowed = off + _FLOAT32 * FEATURE_LIMIT * examples
        if not least - allowed <= total[feature] <= most + allowed:
            yield f"feature {feature} adds up to {total[feature]:.6g}; by its histogram to {least:.6g} to {most:.6g}"


RULES: Final[Mapping[Kind, Mapping[str, Rule]]] = {
    FIT: {"votes": _votes, "norm": _norm},
    SCALE: {"bounds": _bounds, "counts": _scale_counts, "moments": _scale_moments},
    COVARIANCE: {
        "bounds": _bounds,
        "counts": _spread_counts,
        "correlations": _correlations,
        "wander": _wander,
        "moments": _spread_moments,
    },
    CURVE: {"bounds": _bounds, "counts": _curve_counts, "openings": _openings},
    ASSESS: {
        "bounds": _bounds,
        "ranges": _ranges,
        "examples": _examples,
        "histograms": _histograms,
        "threshold": _threshold,
        "losses": _losses,
        "moments": _moments,
    },
}
"""For each kind of question the rules of its sum, in the order in which they are asked."""


def _within(grid: Grid, counts: Floats, lowest: float, highest: float) -> tuple[float, float]:
    """Between what values that were counted like this add up."""
    lower = np.clip(np.concatenate([[lowest], grid.edges]), lowest, highest)
    upper = np.clip(np.concatenate([grid.edges, [highest]]), lowest, highest)
    return float(counts @ lower), float(counts @ upper)
