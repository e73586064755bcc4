"""The planner gives the published table, keeps its bounds exactly and in simulation, and says what would help when it cannot."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secure_sum.errors import InfeasiblePlanError
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.planner import PlanRequest, SumPlan, plan, secrecy_threshold

pytestmark = pytest.mark.edge


@pytest.mark.parametrize(
    ("cohort", "dropout", "split_view_safe", "degree", "threshold"),
    [
        (500, 0.1, False, 60, 39),
        (1000, 0.1, False, 68, 43),
        (1000, 0.3, False, 140, 67),
        (10_000, 0.1, False, 80, 51),
        (10_000, 0.3, False, 182, 86),
        (1000, 0.1, True, 138, 102),
        (10_000, 0.1, True, 182, 134),
        (10, 0.1, False, 9, 6),
        (10, 0.1, True, 9, 7),
        (20, 0.1, False, 19, 11),
        (20, 0.1, True, 19, 14),
        (100, 0.1, False, 99, 51),
        (100, 0.1, True, 99, 67),
    ],
)
def test_the_table_of_the_design_is_reproduced(
    cohort: int, dropout: float, split_view_safe: bool, degree: int, threshold: int
) -> None:
    request = PlanRequest(cohort=cohort, dropout_fraction=dropout, split_view_safe=split_view_safe)
    assert plan(request) == SumPlan(degree=degree, threshold=threshold)


def at_least(total: int, marked: int, drawn: int, count: int) -> Fraction:
    """P[HG(total, marked, drawn) ≥ count] in exact arithmetic."""
    ways = sum(
        math.comb(marked, j) * math.comb(total - marked, drawn - j)
        for j in range(max(count, 0), min(marked, drawn) + 1)
    )
    return Fraction(ways, math.comb(total, drawn))


def meets_every_bound(request: PlanRequest, degree: int, threshold: int) -> bool:
    """The three bounds as the design page states them, in exact arithmetic."""
    n = request.cohort
    corrupt, dropped = int(request.corrupt_fraction * n + 1e-9), int(request.dropout_fraction * n + 1e-9)
    colluders = 2 * threshold - degree if request.split_view_safe else threshold
    removed = corrupt + dropped
    cut = Fraction(math.comb(n, 2))
    for i in range(degree):
        cut *= Fraction(max(removed - i, 0), n - i)
    return (
        n * at_least(n - 1, corrupt, degree, colluders) <= Fraction(1, 2**request.secrecy_bits)
        and cut <= Fraction(1, 2**request.secrecy_bits)
        and n * (1 - at_least(n - 1, n - 1 - dropped, degree, threshold))
        <= Fraction(1, 2**request.correctness_bits)
    )


@pytest.mark.parametrize(
    "request_",
    [
        PlanRequest(cohort=130),
        PlanRequest(cohort=131, dropout_fraction=0.25),
        PlanRequest(cohort=200, corrupt_fraction=0.05, dropout_fraction=0.5),
        PlanRequest(cohort=257, split_view_safe=True),
        # Here it is connectivity that decides.
        PlanRequest(cohort=200, corrupt_fraction=0, dropout_fraction=0.5),
        PlanRequest(cohort=500, secrecy_bits=20, correctness_bits=10),
    ],
)
def test_a_ring_plan_meets_the_bounds_and_nothing_smaller_does(request_: PlanRequest) -> None:
    found = plan(request_)
    assert meets_every_bound(request_, found.degree, found.threshold)
    assert not meets_every_bound(request_, found.degree, found.threshold - 1)
    for degree in range(2, found.degree, 2):
        assert not any(
            meets_every_bound(request_, degree, threshold)
            for threshold in range(degree // 4, degree + 1, max(1, degree // 12))
        )


@settings(max_examples=40, deadline=None)
@given(
    cohort=st.integers(129, 3000),
    corrupt=st.integers(0, 30),
    dropout=st.integers(0, 40),
    split_view_safe=st.booleans(),
)
def test_whatever_is_planned_a_device_with_the_same_assumptions_accepts(
    cohort: int, corrupt: int, dropout: int, split_view_safe: bool
) -> None:
    request = PlanRequest(
        cohort=cohort,
        corrupt_fraction=corrupt / 100,
        dropout_fraction=dropout / 100,
        split_view_safe=split_view_safe,
    )
    try:
        found = plan(request)
    except InfeasiblePlanError:
        return
    assert found.degree % 2 == 0
    assert found.threshold <= found.degree <= cohort - 2
    assert (
        secrecy_threshold(
            cohort=cohort,
            degree=found.degree,
            corrupt_fraction=corrupt / 100,
            secrecy_bits=40,
            split_view_safe=split_view_safe,
        )
        == found.threshold
    )


@pytest.mark.parametrize("cohort", range(2, 129))
def test_in_a_complete_graph_a_majority_opens_and_colluders_never_do(cohort: int) -> None:
    found = plan(PlanRequest(cohort=cohort))
    assert found == SumPlan(degree=cohort - 1, threshold=cohort // 2 + 1)
    safe = plan(PlanRequest(cohort=cohort, split_view_safe=True, dropout_fraction=0))
    # Every honest holder reveals one share of a device, a colluder both: twice the threshold must be out of reach.
    assert 2 * safe.threshold > cohort + cohort // 5


def test_the_bounds_hold_in_simulation() -> None:
    """Weak bounds, so that 40 000 simulated cohorts see failures: they stay below the bound and are not absurdly far below."""
    request = PlanRequest(
        cohort=200, corrupt_fraction=0.3, dropout_fraction=0.3, secrecy_bits=5, correctness_bits=5
    )
    found = plan(request)
    rng = np.random.default_rng(3)
    trials, n = 40_000, request.cohort
    # One device's neighbourhood; the bound on all n of them is the union bound over these.
    colluders = rng.hypergeometric(60, n - 1 - 60, found.degree, trials)
    alive = rng.hypergeometric(n - 1 - 60, 60, found.degree, trials)
    betrayed = n * np.mean(colluders >= found.threshold)
    stranded = n * np.mean(alive < found.threshold)
    assert betrayed <= 2**-5 * 1.5
    assert stranded <= 2**-5 * 1.5
    assert (
        n * np.mean(colluders >= found.threshold - 4) > 2**-5
        or n * np.mean(alive < found.threshold + 4) > 2**-5
    )


def test_on_real_rings_nobody_is_betrayed_stranded_or_cut_off_more_often_than_planned() -> None:
    request = PlanRequest(
        cohort=150, corrupt_fraction=0.3, dropout_fraction=0.3, secrecy_bits=3, correctness_bits=3
    )
    found = plan(request)
    rng = np.random.default_rng(11)
    n, trials = request.cohort, 150
    betrayed = stranded = cut = 0
    for trial in range(trials):
        cohort = Cohort(
            session=f"session-{trial:04d}",
            round_number=1,
            digests={f"d{i:03d}": rng.bytes(32) for i in range(n)},  # type: ignore[misc] # DeviceId is a str
            plan=found,
            generator=MaskGenerator.AES_128_CTR,
        )
        shuffled = [str(device) for device in rng.permutation(cohort.ids)]
        corrupt, dropped = set(shuffled[:45]), set(shuffled[45:90])
        neighbours = {str(device): set(cohort.neighbours(device)) for device in cohort.ids}
        honest = set(shuffled[90:])
        betrayed += any(len(neighbours[device] & corrupt) >= found.threshold for device in honest | dropped)
        stranded += any(len(neighbours[device] - dropped) < found.threshold for device in neighbours)
        reached, front = set(), {next(iter(honest))}
        while front:
            reached |= front
            front = set().union(*(neighbours[device] for device in front)) & honest - reached
        cut += reached != honest
    assert betrayed / trials <= 2**-3
    assert stranded / trials <= 2**-3
    assert cut / trials <= 2**-3


@pytest.mark.parametrize(
    "request_",
    [
        PlanRequest(cohort=10, dropout_fraction=0.6),
        PlanRequest(cohort=20, corrupt_fraction=0.5, dropout_fraction=0.3, split_view_safe=True),
        PlanRequest(cohort=200, dropout_fraction=0.85),
        PlanRequest(cohort=10_000, corrupt_fraction=0.5, dropout_fraction=0.6),
        PlanRequest(cohort=130, dropout_fraction=0.5, split_view_safe=True),
        PlanRequest(cohort=200, corrupt_fraction=0.6, dropout_fraction=0.6),
    ],
)
def test_an_infeasible_plan_names_what_to_change_and_the_change_works(request_: PlanRequest) -> None:
    with pytest.raises(InfeasiblePlanError) as refusal:
        plan(request_)
    advice = str(refusal.value)
    assert f"{request_.cohort} devices" in advice
    changes = re.findall(r"(?:lower|raise) (\w+) to ([\d.]+)", advice)
    changes += [("split_view_safe", "0")] * ("set split_view_safe to false" in advice)
    assert changes
    for name, value in changes:
        figure = float(value) if name.endswith("fraction") else int(value)
        plan(replace(request_, **{name: figure}))


@pytest.mark.parametrize(
    ("request_", "advice"),
    [
        (
            PlanRequest(cohort=10, dropout_fraction=0.6),
            "lower dropout_fraction to 0.49 or raise cohort to 131",
        ),
        (
            PlanRequest(cohort=130, dropout_fraction=0.5, split_view_safe=True),
            "lower dropout_fraction to 0.39 or set split_view_safe to false",
        ),
        (
            PlanRequest(cohort=200, corrupt_fraction=0.6, dropout_fraction=0.6),
            "lower dropout_fraction to 0.38 or lower corrupt_fraction to 0.38",
        ),
        (
            PlanRequest(cohort=10, corrupt_fraction=0.95, dropout_fraction=0.95, split_view_safe=True),
            "lower dropout_fraction to 0.09",
        ),
        (
            PlanRequest(cohort=20, corrupt_fraction=0.5, dropout_fraction=0.3, split_view_safe=True),
            "lower dropout_fraction to 0.24 or lower corrupt_fraction to 0.39 or set split_view_safe to false",
        ),
    ],
)
def test_only_what_helps_is_advised_and_all_of_it(request_: PlanRequest, advice: str) -> None:
    with pytest.raises(InfeasiblePlanError) as refusal:
        plan(request_)
    assert str(refusal.value).split(": ", 1)[1] == advice


@pytest.mark.parametrize(
    ("cohort", "degree", "threshold"),
    [(20, 19, 11), (20, 8, 5), (128, 127, 65), (129, 128, 26), (200, 199, 41), (200, 8, None)],
)
def test_only_a_complete_graph_of_128_devices_or_fewer_is_judged_as_one(
    cohort: int, degree: int, threshold: int | None
) -> None:
    found = secrecy_threshold(
        cohort=cohort, degree=degree, corrupt_fraction=0.2, secrecy_bits=20, split_view_safe=False
    )
    assert found == threshold


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": 1}, "2 to 16384 devices, got cohort 1"),
        ({"cohort": 20_000}, "got cohort 20000"),
        ({"corrupt_fraction": 1.0}, r"corrupt_fraction must be in \[0, 1\), got 1.0"),
        ({"dropout_fraction": -0.1}, "dropout_fraction must be"),
        ({"dropout_fraction": math.nan}, "got nan"),
        ({"secrecy_bits": 0}, "secrecy_bits must be 1 to 128, got 0"),
        ({"correctness_bits": 200}, "correctness_bits"),
    ],
)
def test_a_figure_out_of_range_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InfeasiblePlanError, match=message):
        plan(replace(PlanRequest(cohort=50), **change))


def test_a_share_that_is_whole_on_paper_loses_no_device() -> None:
    # 0.29 * 100 is a hair below 29 in floating point.
    most = plan(PlanRequest(cohort=100, dropout_fraction=0.49))
    assert most.threshold == 51
    with pytest.raises(InfeasiblePlanError):
        plan(PlanRequest(cohort=100, dropout_fraction=0.5))
