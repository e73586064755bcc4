"""What noise spares an aggregator of the rules for answers without it, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import asked, devices, noise
from query_policy_world import MANY, device, refused, renew

from edge_agent.privacy.limits import OwnerLimits
from protocol.questions import FIT, SCALE, Kind
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.edge

BUDGETED = OwnerLimits(answers_per_day=10_000, maximum_epsilon=20.0)


def test_who_hides_behind_noise_within_an_epsilon_is_bound_by_epsilon_alone(tmp_path: Path) -> None:
    d = device(tmp_path, BUDGETED)
    given = 0
    with refused(RefusalCode.BUDGET, "20 is allowed"):
        for number in range(1000):
            for kind in (SCALE, FIT):
                d.answer(asked(kind, noise=noise(2.0)), "abcd" if number % 2 else "abce")
                given += 1
    assert given > 20
    assert 15 < d.account.spending().epsilon <= 20


def test_noise_without_an_epsilon_spares_the_companions_and_not_the_counts(tmp_path: Path) -> None:
    d = device(tmp_path)
    for number in range(10):
        d.answer(asked(FIT, noise=noise(1.0)), "abcd" if number % 2 else "abce")
    d.answer(asked(SCALE, noise=noise(1.0)), "abcd")
    for kind, count in ((FIT, 10), (SCALE, 1)):
        with refused(RefusalCode.SNAPSHOT, f"{kind} was revealed {count} times"):
            d.account.check(asked(kind, noise=noise(1.0)))
    renew(d)
    d.answer(asked(SCALE, noise=noise(1.0)), "abce")


@pytest.mark.parametrize("limits", [MANY, BUDGETED])
def test_sums_with_noise_make_no_companions_for_those_without(tmp_path: Path, limits: OwnerLimits) -> None:
    d = device(tmp_path, limits)
    d.answer(asked(FIT, noise=noise(6.0)), "abef")
    d.account.close()
    d.limits = MANY
    d.open()
    d.answer(asked(FIT), "abcd")
    renew(d)
    d.answer(asked(FIT, noise=noise(6.0)), "abce")
    d.answer(asked(FIT), "abcd")


def test_noise_below_the_owners_floor_spares_nothing(tmp_path: Path) -> None:
    d = device(tmp_path, BUDGETED)
    d.answer(asked(FIT, noise=noise(0.9)), "abcd")
    with refused(RefusalCode.COHORT):
        d.account.check_cohort(asked(FIT, noise=noise(0.9)), devices("abce"))


@pytest.mark.parametrize("kind", [FIT, SCALE])
def test_a_noised_question_resets_nothing(tmp_path: Path, kind: Kind) -> None:
    d = device(tmp_path)
    for _ in range(9 if kind == FIT else 0):
        d.answer(asked(kind), "abcd")
    if kind == FIT:
        d.answer(asked(kind, noise=noise(6.0)), "abef")
        with refused(RefusalCode.SNAPSHOT, "10 times"):
            d.account.check(asked(kind))
        renew(d)
        with refused(RefusalCode.COHORT, "one over a, b, c, d"):
            d.account.check_cohort(asked(kind), devices("abc"))
        return
    d.answer(asked(kind), "abcd")
    renew(d)
    d.answer(asked(kind, noise=noise(6.0)), "abef")
    renew(d)
    with refused(RefusalCode.COHORT, "one over a, b, c, d"):
        d.account.check_cohort(asked(kind), devices("abc"))


def test_an_owner_who_lifts_the_epsilon_gets_no_counts_back(tmp_path: Path) -> None:
    d = device(tmp_path)
    for _ in range(10):
        d.answer(asked(FIT), "abcd")
    d.account.close()
    d.limits = OwnerLimits(require_noise=True)
    d.open()
    d.answer(asked(FIT, noise=noise(6.0)), "abef")
    d.account.close()
    d.limits = MANY
    d.open()
    with refused(RefusalCode.SNAPSHOT, "10 times"):
        d.account.check(asked(FIT))
