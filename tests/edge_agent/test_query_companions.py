"""Over whom a device's answers are summed: the same devices within a snapshot, and over snapshots the same or three others."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import asked, devices
from query_policy_world import device, refused, renew

from protocol.questions import FIT, SCALE, Kind
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.edge


def test_training_is_summed_over_the_same_devices_ten_times_a_snapshot(tmp_path: Path) -> None:
    d = device(tmp_path)
    for number in range(10):
        d.answer(asked(FIT, round_number=number), "abcd")
    with refused(
        RefusalCode.SNAPSHOT, "was revealed 10 times from this snapshot of the windows, 10 are allowed"
    ):
        d.account.check(asked(FIT, run="run-2"))


@pytest.mark.parametrize("others", ["abc", "abcde", "abce", "aefg"])
def test_companions_of_training_are_neither_fewer_nor_more_nor_others(tmp_path: Path, others: str) -> None:
    d = device(tmp_path)
    d.answer(asked(FIT), "abcd")
    for run in ("run-1", "run-2"):
        with refused(RefusalCode.COHORT, "is summed with a, b, c, d only"):
            d.account.check_cohort(asked(FIT, run=run), devices(others))
    assert d.account.spending().participations == 1, "refused before anything was charged"
    if set(others) < set("abcd"):
        question = d.mask(asked(FIT), "abcd")
        with refused(RefusalCode.COHORT):
            d.account.reveal(question, devices(others))
    d.answer(asked(FIT), "abcd")


def test_companions_are_who_is_in_the_sum_and_not_who_was_asked(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(FIT), "abcde", "abcd")
    d.answer(asked(FIT), "abcd")
    with refused(RefusalCode.COHORT):
        d.account.check_cohort(asked(FIT), devices("abcde"))


def test_a_round_that_died_before_its_reveal_fixes_no_companions(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.mask(asked(FIT), "abcd")
    d.answer(asked(FIT), "abce")
    with refused(RefusalCode.COHORT):
        d.account.check_cohort(asked(FIT), devices("abcd"))


def test_two_learners_that_were_both_asked_reveal_for_one_set_of_companions(tmp_path: Path) -> None:
    d = device(tmp_path)
    first, second = d.account, d.open()
    one, other = asked(FIT), asked(FIT)
    for account, question, cohort in ((first, one, "abcd"), (second, other, "abef")):
        account.check_cohort(question, devices(cohort))
        account.charge(question, now_s=0.0)
    second.reveal(other, devices("abef"))
    with refused(RefusalCode.COHORT):
        first.reveal(one, devices("abcd"))


def test_a_cohort_that_was_fine_when_it_was_checked_is_looked_at_again_when_it_is_charged(
    tmp_path: Path,
) -> None:
    d = device(tmp_path)
    first, second = d.account, d.open()
    late = asked(FIT)
    first.check_cohort(late, devices("abef"))
    question = asked(FIT)
    second.check_cohort(question, devices("abcd"))
    second.charge(question, now_s=0.0)
    second.reveal(question, devices("abcd"))
    with refused(RefusalCode.COHORT):
        first.charge(late, now_s=0.0)


def test_a_device_that_changes_its_name_is_not_another_one(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(FIT), "abcd")
    d.answer(asked(SCALE), "abcd")
    with refused(RefusalCode.COHORT):
        d.account.check_cohort(asked(FIT), devices("xbcd"))
    renew(d)
    for kind in (FIT, SCALE):
        with refused(RefusalCode.COHORT, "by 2 devices; the same devices or 3 others"):
            d.account.check_cohort(asked(kind), devices("xbcd"))


@pytest.mark.parametrize("kind", [FIT, SCALE])
@pytest.mark.parametrize(
    ("cohort", "is_allowed"),
    [("abcd", True), ("abc", False), ("abcde", False), ("abef", True), ("abcdefg", True), ("abce", False)],
)
def test_over_snapshots_a_sum_is_over_the_same_devices_or_over_three_others(
    tmp_path: Path, kind: Kind, cohort: str, is_allowed: bool
) -> None:
    d = device(tmp_path)
    d.answer(asked(kind), "abcd")
    renew(d)
    if is_allowed:
        d.answer(asked(kind), cohort)
        return
    with refused(RefusalCode.COHORT, "given from much the same windows"):
        d.account.check_cohort(asked(kind), devices(cohort))
    question = d.mask(asked(kind), "abcdxyz")
    with refused(RefusalCode.COHORT):
        d.account.reveal(question, devices(cohort))


def test_a_detour_over_other_devices_does_not_lead_around_an_older_sum(tmp_path: Path) -> None:
    d = device(tmp_path)
    for cohort in ("abcd", "aefg"):
        d.answer(asked(SCALE), cohort)
        renew(d)
    with refused(RefusalCode.COHORT, "differs from one over a, b, c, d"):
        d.account.check_cohort(asked(SCALE), devices("abc"))


@pytest.mark.parametrize(("windows", "is_new"), [(99, False), (100, True)])
def test_an_older_sum_matters_no_more_once_half_of_the_windows_are_new_since(
    tmp_path: Path, windows: int, is_new: bool
) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE), "abcd")
    renew(d, windows=windows)
    if is_new:
        d.answer(asked(SCALE), "abc")
    else:
        with refused(RefusalCode.COHORT):
            d.account.check_cohort(asked(SCALE), devices("abc"))


def test_new_windows_add_up_over_snapshots_since_the_sum_in_question(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE), "abcd")
    for _ in range(2):
        renew(d, windows=40)
        with refused(RefusalCode.COHORT):
            d.account.check_cohort(asked(SCALE), devices("abc"))
    renew(d, windows=40)
    d.answer(asked(SCALE), "abc")
