"""What an aggregator may ask of a device without noise: how often each kind of question is masked and revealed."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import ALL, asked, devices, noise
from query_policy_world import ONCE, device, refused

from protocol.questions import ASSESS, COVARIANCE, SCALE, Kind
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.edge


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
