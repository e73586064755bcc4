"""What so few devices cannot show, whatever they show: known by counting, before anything begins.

A test that may exclude harm exists only where one draw in all is less likely than its level; of restarts, where no event at all
would exclude that a quarter of the devices is harmed. Strata are not asked for: with them a group may turn out to be too
small that is not called so here, never the other way round.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fleet.gates.events import HARMED_SHARE, binomial_tail
from fleet.gates.looks import PASS_LEVEL
from fleet.gates.plan import Metric
from fleet.gates.scores import least_p
from fleet.gates.signed_ranks import least_signed_p

__all__ = ["cannot_pass"]


def cannot_pass(metrics: Collection[Metric], canaries: int, controls: int) -> tuple[Metric, ...]:
    """Of `metrics` those for which `canaries` and `controls` devices cannot exclude harm by the end of a soak.

    Examples:
        >>> [str(metric) for metric in cannot_pass([Metric.LATENCY_P99, Metric.RESTARTS], 5, 95)]
        ['restarts']
        >>> cannot_pass([Metric.LATENCY_P99], 1, 19), cannot_pass([Metric.LATENCY_P99], 11, 0)
        ((), ())
    """
    if controls:
        ranks = least_p(np.array([canaries + controls]), np.array([canaries]))
    else:
        ranks = least_signed_p(canaries)
    events = binomial_tail(0, canaries, HARMED_SHARE)
    least = {Metric.RESTARTS: events, Metric.VERDICTS: 0.0}  # verdicts are not asked for
    return tuple(metric for metric in metrics if least.get(metric, ranks) > PASS_LEVEL * (1 + 1e-9))
