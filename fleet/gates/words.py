"""What a look found, as an operator reads it: the size, how sure, compared with whom, and what would tell more."""

from __future__ import annotations

import math
from typing import Final

from fleet.gates.changes import MARGINS, Kind
from fleet.gates.intervals import Interval
from fleet.gates.plan import Metric

__all__ = [
    "BEFORE_AND_AFTER",
    "NAMES",
    "as_effect",
    "at_least",
    "between",
    "devices",
    "duration",
    "effect",
    "finite",
    "harm",
    "harm_asked",
    "p_of_e",
    "probability",
    "shares",
    "what_would_tell",
]

NAMES: Final[dict[Metric, str]] = {
    Metric.LATENCY_P99: "latency",
    Metric.ANOMALY_RATE: "anomaly rate",
    Metric.ANOMALY_LOSS: "loss of anomalies",
    Metric.UNJUDGED: "unjudged windows",
    Metric.MEMORY: "memory",
    Metric.DRIFT_SCORE: "drift score",
    Metric.SIGHT: "sight",
    Metric.RESTARTS: "restarts, crashes and silence",
    Metric.VERDICTS: "verdicts",
}

BEFORE_AND_AFTER: Final = "before and after only: no device was left to compare with"

_LONG_H: Final = 7 * 24.0
_MANY: Final = 100_000


def as_effect(metric: Metric, harm: Interval) -> Interval:
    """Estimate, low and high on the scale of changes (large is harm) as they are shown: factors, or differences."""
    margins = MARGINS[metric]
    middle, low, high = harm
    if metric is Metric.SIGHT:
        return -middle, -high, -low
    if margins.kind is Kind.RATIO:
        return _exp(middle), _exp(low), _exp(high)
    if margins.kind is Kind.FEWER:
        return _exp(-middle), _exp(-high), _exp(-low)
    return harm


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def effect(metric: Metric, value: float) -> str:
    """One effect, as `as_effect` gives it: +31 %, × 2.6, −12 points, +4 % an hour."""
    if not math.isfinite(value):
        return "unknown"
    if metric is Metric.SIGHT:
        return f"{100 * value:+.0f} points".replace("-", "−")
    if metric is Metric.MEMORY:
        return f"{100 * value:+.1f} % an hour".replace("-", "−")
    if metric in {Metric.LATENCY_P99, Metric.DRIFT_SCORE} and value < 3:
        return f"{100 * (value - 1):+.0f} %".replace("-", "−")
    return f"× {value:.2g}" if value < 100 else f"× {value:.0f}"


def between(metric: Metric, low: float, high: float) -> str:
    """An interval, also where an end is not known."""
    if not math.isfinite(low) and not math.isfinite(high):
        return "of any size"
    if not math.isfinite(high):
        return f"at least {effect(metric, low)}"
    if not math.isfinite(low):
        return f"at most {effect(metric, high)}"
    return f"between {effect(metric, low)} and {effect(metric, high)}"


def at_least(metric: Metric, middle: float, low: float, high: float) -> str:
    """A harm that was found, with the end of the interval at which it is smallest."""
    least = high if metric in {Metric.SIGHT, Metric.ANOMALY_LOSS} else low
    bound = f" (at least {effect(metric, least)})" if math.isfinite(least) else ""
    return f"{effect(metric, middle)}{bound}"


def finite(value: float) -> float | None:
    """None for an end that is not known: JSON has no infinity."""
    return value if math.isfinite(value) else None


def harm(metric: Metric) -> str:
    """The size of harm that a release must be shown not to do, to pass."""
    passing = MARGINS[metric].passing
    match metric:
        case Metric.SIGHT:
            size = f"a loss of {100 * passing:.0f} points"
        case Metric.MEMORY:
            size = f"a growth of {100 * passing:.0f} % an hour"
        case Metric.ANOMALY_LOSS:
            size = "a halving"
        case Metric.ANOMALY_RATE | Metric.UNJUDGED:
            size = "a doubling"
        case _:
            size = f"{100 * (passing - 1):+.0f} %"
    return size


def harm_asked(metric: Metric, size: float) -> str:
    """The harm that a preview asks about, as `harms.HARMS` gives it."""
    match metric:
        case Metric.LATENCY_P99 | Metric.DRIFT_SCORE:
            return f"{NAMES[metric]} {effect(metric, size)}"
        case Metric.ANOMALY_LOSS:
            return "blindness, by the anomaly rate"
        case Metric.UNJUDGED:
            return f"{100 * size:g} % more windows unjudged"
        case Metric.MEMORY:
            return f"a leak of {100 * size:g} % an hour"
        case Metric.SIGHT:
            return f"sight × {size:g}"
        case _:
            return f"anomaly rate × {size:g}"


def shares(low: float, high: float) -> str:
    """Two shares as percentages: 7–28 %."""
    first, last = round(100 * low), round(100 * high)
    return f"{first} %" if first == last else f"{first}–{last} %"


def p_of_e(e_value: float) -> float:
    """The p-value that an e-value stands for, at most 1."""
    return 1 / max(e_value, 1.0)


def probability(value: float) -> str:
    """A p-value or level, without digits that say nothing.

    Examples:
        >>> probability(0.00046), probability(0.2), probability(1e-12), probability(1.0)
        ('.00046', '.2', '< .000001', '1')
    """
    if value < 1e-6:
        return "< .000001"
    digits = f"{value:.2f}" if value >= 0.01 else f"{value:.{1 - math.floor(math.log10(value))}f}"
    return digits.rstrip("0").rstrip(".").removeprefix("0") or "0"


def devices(count: int, noun: str = "device") -> str:
    """`count` of them, in the singular where it is one."""
    return (
        f"{count} {noun}"
        if count == 1
        else f"{count} {noun}s"
        if not noun.endswith("y")
        else f"{count} {noun[:-1]}ies"
    )


def duration(hours: float) -> str:
    """Some time, in the unit that a person would take."""
    if hours < 1:
        return f"{max(1, math.ceil(hours * 60))} min"
    return f"{math.ceil(hours)} h" if hours < 48 else f"{math.ceil(hours / 24)} days"


def what_would_tell(metric: Metric, shown: Interval, hours: float, canaries: int) -> str:
    """How much longer, or how many devices, would exclude harm of the size that matters; in words.

    An interval shrinks with the root of what it is made of. `shown` is on the scale of changes (large is harm), for counts a factor.
    """
    margins = MARGINS[metric]
    as_log = margins.kind is Kind.MORE
    middle, _, high = ((math.log(max(v, 1e-9)) if as_log else v) for v in shown)
    goal = margins.passing if margins.kind is Kind.DIFFERENCE else math.log(margins.passing)
    room = goal - max(middle, 0.0)
    if not math.isfinite(high) or not math.isfinite(middle):
        return "how much more would do cannot be said"
    if room <= 0.1 * goal:
        return "if it is as large as it looks, nothing will exclude it"
    more = max(1.1, ((high - max(middle, 0.0)) / room) ** 2) if high > max(middle, 0.0) else 1.1
    needed = math.ceil(canaries * more)
    ways = []
    if hours > 0 and hours * (more - 1) <= _LONG_H:
        ways.append(f"{duration(hours * (more - 1))} more")
    if needed <= _MANY:
        ways.append(f"{needed} devices")
    return f"{' or '.join(ways)} would" if ways else "no practicable time or number of devices would"
