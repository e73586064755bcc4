"""Proves that no audit of sums drawn by coins gets above the claim, through the mechanism itself, and that it would notice.

    python tests/aggregator/prove_privacy_audit.py          (a step of make prove; two minutes)

Three claims are held against what guesses prove (`one_run_audit`): cohorts that are mostly void, cohorts that are not, and two mutants that must be
caught: an account that believes the rate, and devices that add three tenths of their noise.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import numpy as np  # noqa: E402 - a program finds its neighbours first
import pytest  # noqa: E402 - as above
from audit_world import (  # noqa: E402 - as above
    DELTA,
    LIKELY,
    VOID_MOSTLY,
    claimed,
    real_sums,
    without_the_correction,
)
from ledger_world import accounts_at  # noqa: E402 - as above
from one_run_audit import proven_epsilon  # noqa: E402 - as above

from aggregator.privacy.settings import FamilyBudget  # noqa: E402 - as above
from protocol.privacy import mechanism  # noqa: E402 - as above
from protocol.privacy.randomness import RandomStream  # noqa: E402 - as above


def main() -> int:
    """Audit; the last line is the figure."""
    budget = FamilyBudget(delta=DELTA)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        void_path = proven_epsilon(*real_sums(VOID_MOSTLY, seed=8), DELTA)
        _, honest = claimed(accounts_at(Path(folder) / "a", budget), VOID_MOSTLY, VOID_MOSTLY.sampling)
        likely = proven_epsilon(*real_sums(LIKELY, seed=9), DELTA)
        _, claim = claimed(accounts_at(Path(folder) / "b", budget), LIKELY, LIKELY.sampling)
        without_the_correction(patch)
        _, naive = claimed(accounts_at(Path(folder) / "c", budget), VOID_MOSTLY, VOID_MOSTLY.sampling)
        genuine = mechanism.draw_discrete_gaussian

        def weakened(count: int, std: float, stream: RandomStream) -> np.ndarray:
            return genuine(count, 0.3 * std, stream)

        patch.setattr(mechanism, "draw_discrete_gaussian", weakened)
        weak = proven_epsilon(*real_sums(LIKELY, seed=9), DELTA)
    print(
        f"void path: by the rate {naive:.2f} < proven {void_path:.2f} < claimed {honest:.2f}; fair coins: proven {likely:.2f} < claimed"
        f" {claim:.2f} < proven of three tenths of the noise {weak:.2f}"
    )
    return 0 if naive < void_path < honest and likely < claim < weak else 1


if __name__ == "__main__":
    sys.exit(main())
