"""When a device answers anew: with new windows and a day on a clock that nobody can turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import ALL, CONTENT, DAY_S, asked, devices, noise
from query_policy_world import ONCE, device, refused, renew

from edge_agent.privacy.limits import OwnerLimits
from protocol.questions import ASSESS, FIT, SCALE
from protocol.refusals import RefusalCode

pytestmark = pytest.mark.edge


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
