"""What an aggregator may ask of a device without noise: each kind how often, over whom, from which windows; and every way around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import ALL, CONTENT, DAY_S, Owned, asked, devices, noise

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import OwnerLimits
from protocol.questions import ASSESS, COVARIANCE, CURVE, FIT, SCALE, Kind
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.edge

ONCE: tuple[Kind, ...] = (SCALE, COVARIANCE, CURVE, ASSESS)
MANY = OwnerLimits(answers_per_day=10_000)


def refused(code: RefusalCode, words: str = ".") -> pytest.RaisesExc[PrivacyRefusedError]:
    return pytest.RaisesExc(PrivacyRefusedError, match=words, check=lambda error: error.code is code)


def device(folder: Path, limits: OwnerLimits = MANY, *, windows: int = 200) -> Owned:
    owned = Owned(folder, limits)
    owned.watch(windows)
    owned.snapshot()
    return owned


def renew(owned: Owned, *, windows: int = 32, after_s: float = DAY_S) -> None:
    """A day later, as a new learner."""
    owned.watch(windows)
    owned.clock.pass_s(after_s)
    owned.account.close()
    owned.open()
    owned.snapshot()


# --- once


@pytest.mark.parametrize("kind", ONCE)
def test_a_question_that_the_windows_answer_is_revealed_once_a_snapshot_however_it_is_asked(
    tmp_path: Path, kind: Kind
) -> None:
    d = device(tmp_path)
    d.answer(asked(kind))
    for again in (
        asked(kind),
        asked(kind, run="run-2"),
        asked(kind, round_number=77),
        asked(kind, noise=noise(0.5)),  # less noise than counts as noise
    ):
        with refused(RefusalCode.SNAPSHOT, f"{kind} was revealed 1 times from this snapshot"):
            d.account.check(again)
    d.open()  # another learner
    with refused(RefusalCode.SNAPSHOT):
        d.account.check(asked(kind))
    for other in set(ONCE) - {kind}:
        d.account.check(asked(other))


def test_a_question_is_masked_three_times_at_most_whether_or_not_it_is_ever_revealed(tmp_path: Path) -> None:
    d = device(tmp_path)
    for cohort in ("abcd", "abce", "abcf"):
        d.mask(asked(SCALE), cohort)
    with refused(
        RefusalCode.SNAPSHOT, "was answered 3 times from this snapshot of the windows, 3 are allowed"
    ):
        d.account.check(asked(SCALE))
    d.account.check(asked(COVARIANCE))


def test_of_three_masked_answers_the_second_reveal_is_refused(tmp_path: Path) -> None:
    d = device(tmp_path)
    questions = [d.mask(asked(ASSESS)) for _ in range(3)]
    d.account.reveal(questions[2], devices("abc"))
    for question in questions[:2]:
        with refused(RefusalCode.SNAPSHOT, "revealed 1 times"):
            d.account.reveal(question, devices(ALL))
    with refused(RefusalCode.ORDER, "was revealed before"):
        d.account.reveal(questions[2], devices("abc"))


def test_nothing_is_revealed_that_was_not_charged_and_nothing_charged_whose_cohort_was_not_checked(
    tmp_path: Path,
) -> None:
    d = device(tmp_path)
    stray = asked(SCALE)
    with refused(RefusalCode.ORDER, "was not charged"):
        d.account.reveal(stray, devices(ALL))
    with refused(RefusalCode.ORDER, "no cohort was checked"):
        d.account.charge(stray, now_s=0.0)
    d.account.check_cohort(asked(SCALE), devices(ALL))
    with refused(RefusalCode.ORDER, "no cohort was checked"):
        d.account.charge(stray, now_s=0.0)
    assert d.account.spending().participations == 0
    charged = d.mask(asked(SCALE, session="one"))
    for other in (asked(COVARIANCE, session="one"), asked(SCALE, run="run-2", session="one")):
        with refused(RefusalCode.ORDER, "was not charged"):
            d.account.reveal(other, devices(ALL))
    d.account.reveal(charged, devices(ALL))


def test_who_asks_without_end_does_not_wear_out_the_card(tmp_path: Path) -> None:
    d = device(tmp_path)
    db = d.account._file._db
    before = db.total_changes
    for number in range(200):
        d.account.refuse(RefusalCode.SNAPSHOT, f"question {number}")
    d.account.refuse(RefusalCode.ORDER, "the last one")
    assert db.total_changes - before <= 2
    d.account.close()
    refusal = d.open().review().refused
    assert refusal is not None
    assert (refusal.code, refusal.words) == ("ORDER", "the last one"), "it is told all the same"


def test_two_learners_at_once_share_one_allowance(tmp_path: Path) -> None:
    d = device(tmp_path)
    first, second = d.account, d.open()
    questions = [asked(SCALE), asked(SCALE)]
    for account, question in zip((first, second), questions, strict=True):
        account.check(question)
        account.check_cohort(question, devices(ALL))
        account.charge(question, now_s=0.0)
    with refused(RefusalCode.ORDER, "a later attempt"):
        first.reveal(questions[0], devices(ALL))
    second.reveal(questions[1], devices(ALL))
    with refused(RefusalCode.SNAPSHOT):
        first.reveal(questions[0], devices(ALL))


# --- companions


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


# --- over snapshots


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


# --- noise


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


# --- snapshots and time


def test_a_new_snapshot_needs_new_windows_and_a_day(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE))
    for windows, after_s in ((31, 3 * DAY_S), (0, DAY_S)):
        renew(d, windows=windows, after_s=after_s)
        with refused(RefusalCode.SNAPSHOT, r"after 32 new windows and 24 h"):
            d.account.check(asked(SCALE))
    renew(d, windows=1, after_s=0.0)
    d.answer(asked(SCALE))
    renew(d, windows=10_000, after_s=DAY_S - 1)
    with refused(RefusalCode.SNAPSHOT):
        d.account.check(asked(SCALE))
    renew(d, windows=0, after_s=1.0)
    d.answer(asked(SCALE))


@pytest.mark.parametrize("jump_s", [10 * 365 * DAY_S, -10 * 365 * DAY_S, float("nan"), float("inf")])
def test_a_date_that_is_set_ahead_or_back_gives_nothing_and_blocks_nothing(
    tmp_path: Path, jump_s: float
) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE))
    d.clock.wall_s += jump_s
    renew(d, after_s=60.0)
    with refused(RefusalCode.SNAPSHOT):
        d.account.check(asked(SCALE))
    renew(d, after_s=DAY_S - 60.0)
    d.answer(asked(SCALE))


@pytest.mark.parametrize("jump_s", [0.0, -10 * 365 * DAY_S, float("nan")])
def test_a_device_without_a_clock_that_is_restarted_every_hour_is_not_blocked_for_ever(
    tmp_path: Path, jump_s: float
) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE))
    for _ in range(23):
        d.clock.restart(off_s=jump_s)
        renew(d, windows=10, after_s=3600.0)
        with refused(RefusalCode.SNAPSHOT):
            d.account.check(asked(SCALE))
    d.clock.restart(off_s=jump_s)
    renew(d, windows=10, after_s=3600.0)
    d.answer(asked(SCALE))


def test_a_restart_with_a_date_set_ahead_counts_for_a_day_at_most(tmp_path: Path) -> None:
    d = device(tmp_path, OwnerLimits(snapshot_every_s=3 * DAY_S))
    d.answer(asked(SCALE))
    for _ in range(2):
        d.clock.restart(off_s=1000 * DAY_S)
        renew(d, after_s=0.0)
        with refused(RefusalCode.SNAPSHOT):
            d.account.check(asked(SCALE))
    d.clock.restart(off_s=1000 * DAY_S)
    renew(d, after_s=0.0)
    d.answer(asked(SCALE))


def test_a_device_that_was_off_for_two_days_has_a_new_snapshot(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE))
    d.clock.restart(off_s=2 * DAY_S)
    renew(d, after_s=0.0)
    d.answer(asked(SCALE))


def test_forty_answers_a_day_whatever_is_asked(tmp_path: Path) -> None:
    d = device(tmp_path, OwnerLimits())
    for number in range(28):
        d.mask(asked(FIT, round_number=number))
    for kind in ONCE:
        for _ in range(3):
            d.mask(asked(kind))
    for question in (asked(FIT), asked(FIT, noise=noise(8.0)), asked(ASSESS)):
        with refused(RefusalCode.BUDGET, "has given 40 answers within 24 h, 40 are allowed"):
            d.account.check(question)
    d.clock.pass_s(DAY_S + 1)
    d.account.check(asked(FIT))


def test_another_releases_columns_or_another_scale_give_no_new_allowance(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.answer(asked(SCALE))
    d.answer(asked(FIT), "abcd")
    for content in (
        type(CONTENT)(columns="cd" * 32, scale="1"),
        type(CONTENT)(columns=CONTENT.columns, scale="2"),
        CONTENT,
    ):
        d.watch(500)
        d.open()
        d.snapshot(content)
        with refused(RefusalCode.SNAPSHOT):
            d.account.check(asked(SCALE))
        with refused(RefusalCode.COHORT, "a, b, c, d only"):
            d.account.check_cohort(asked(FIT), devices("aefg"))
        d.answer(asked(FIT), "abcd")


def test_a_learner_that_answers_from_windows_of_an_older_snapshot_must_end(tmp_path: Path) -> None:
    d = device(tmp_path)
    orphan = d.account
    late = d.mask(asked(FIT))
    d.watch(32)
    d.clock.pass_s(DAY_S)
    d.open()
    d.snapshot()
    with refused(RefusalCode.SNAPSHOT, "answers from snapshot 1, another one of this device took snapshot 2"):
        orphan.check(asked(SCALE))
    with refused(RefusalCode.SNAPSHOT):
        orphan.reveal(late, devices(ALL))
    d.account.check(asked(SCALE))
