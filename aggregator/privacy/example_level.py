"""What private training on one device costs each window in it: ε at example level.

It is another account than that of the rounds (`aggregator.privacy.accountant`): there a whole device is hidden in a sum,
here one window in a device's update, whoever reads that update. A device's updates build on each other, so the costs of
all its rounds add up. Adjacency: one window is there, or blank in its place; batches are Poisson samples that nobody sees.

The figure is an upper bound for the discrete Gaussian that devices draw: Rényi divergences at integer orders, where its moments
are no larger than the continuous Gaussian's. `idealised_example_epsilon` is that of the continuous one, from privacy loss
distributions, 7 to 13 % lower in tests/aggregator/test_example_level.py (more beyond ε = 8, for want of an order below 2); Opacus'
PRV accountant gives the same.

Sources: Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019, arXiv:1908.10530v1; Canonne,
Kamath, Steinke, arXiv:2004.00010v5, Theorem 4; Koskela, Jälkö, Honkela, "Computing Tight Differential Privacy Guarantees
Using FFT", 2020, arXiv:1906.03049v2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from aggregator.privacy.dp_library import dp
from protocol.privacy_cost import ORDERS, SAMPLER_DELTA
from protocol.training import ExamplePrivacy

__all__ = ["example_epsilon", "idealised_example_epsilon"]


def example_epsilon(rounds: Iterable[ExamplePrivacy], delta: float) -> float:
    """ε at `delta` of one window of a device that answered these rounds; 0 for none.

    Raises:
        ValueError: `delta` is not between 0 and 1.
    """
    return _epsilon(dp().rdp.RdpAccountant(list(ORDERS)), rounds, delta, sampler=SAMPLER_DELTA)


def idealised_example_epsilon(rounds: Iterable[ExamplePrivacy], delta: float) -> float:
    """The same with a continuous Gaussian, from privacy loss distributions: tighter, and no bound for lattice noise."""
    return _epsilon(dp().pld.PLDAccountant(), rounds, delta)


def _epsilon(
    accountant: Any, rounds: Iterable[ExamplePrivacy], delta: float, *, sampler: float = 0.0
) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")
    for one, times in Counter(rounds).items():
        accountant.compose(_event(one), times)
    return float(accountant.get_epsilon(delta - sampler)) if delta > sampler else math.inf


def _event(one: ExamplePrivacy) -> Any:
    gaussian = dp().GaussianDpEvent(one.noise_multiplier)
    sampled = dp().PoissonSampledDpEvent(one.sampling_rate, gaussian)
    return dp().SelfComposedDpEvent(sampled, one.steps)
