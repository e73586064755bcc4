"""The device's own privacy account: durable, never reset, enforced before an answer leaves."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import msgspec
import pytest
from privacy_world import ALL, BARE, Owned, asked, devices, noise

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.charges import offered
from edge_agent.privacy.limits import ChargeLimits, OwnerLimits
from protocol.privacy_cost import PrivacyCost, RoundNoise, epsilon, planned_cost
from protocol.refusals import RefusalCode
from runtime.errors import StorageError

pytestmark = pytest.mark.edge

ROUND = noise(7.0)
COST = planned_cost(ROUND)
OFTEN = OwnerLimits(answers_per_day=10_000, fits_per_snapshot=10_000)


def account(folder: Path, limits: OwnerLimits = OFTEN) -> DeviceAccount:
    return DeviceAccount(folder / "privacy.sqlite", limits)


def give(budget: DeviceAccount, count: int, how: RoundNoise = ROUND, *, start: int = 0) -> None:
    for number in range(start, start + count):
        question = asked(noise=how, session=f"{number}")
        budget.check_cohort(question, devices(ALL))
        budget.charge(question, now_s=100.0 + number)


def refused(code: RefusalCode, words: str) -> pytest.RaisesExc[PrivacyRefusedError]:
    return pytest.RaisesExc(PrivacyRefusedError, match=words, check=lambda error: error.code is code)


def test_a_new_account_has_given_nothing(tmp_path: Path) -> None:
    spent = account(tmp_path).spending()
    assert (spent.participations, spent.noiseless, spent.epsilon, spent.last_at_s) == (0, 0, 0.0, None)


def test_what_was_given_survives_a_restart(tmp_path: Path) -> None:
    with account(tmp_path) as budget:
        give(budget, 3)
    spent = account(tmp_path).spending()
    assert spent.participations == 3
    assert spent.last_at_s == 102.0
    assert spent.epsilon == pytest.approx(epsilon(COST.times(3), 1e-6))


def test_the_cap_on_participations_holds_over_runs_and_restarts(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(OFTEN, maximum_participations=3)
    with account(tmp_path, limits) as budget:
        give(budget, 2)
    budget = account(tmp_path, limits)
    give(budget, 1, start=2)
    with refused(RefusalCode.BUDGET, "has given 3 answers, 3 are allowed"):
        budget.check(asked(run="run-3"))
    assert budget.spending().participations == 3


def test_the_epsilon_budget_is_never_exceeded(tmp_path: Path) -> None:
    budget = account(tmp_path, msgspec.structs.replace(OFTEN, maximum_epsilon=2.0))
    with refused(
        RefusalCode.BUDGET, r"would bring the device's epsilon to 2\.\d+, 2 is allowed at delta 1e-06"
    ):
        give(budget, 1000)
    spent = budget.spending()
    assert 1.8 < spent.epsilon <= 2.0
    assert epsilon(spent.cost + COST, 1e-6) > 2.0


def test_a_run_may_announce_stricter_limits_never_looser_ones(tmp_path: Path) -> None:
    budget = account(tmp_path, msgspec.structs.replace(OFTEN, maximum_participations=2, maximum_epsilon=3.0))
    with refused(RefusalCode.BUDGET, "0 answers, 0 are allowed"):
        budget.check(asked(noise=ROUND, announced=ChargeLimits(maximum_participations=0)))
    with refused(RefusalCode.BUDGET, "0.01 is allowed"):
        budget.check(asked(noise=ROUND, announced=ChargeLimits(maximum_epsilon=0.01)))
    give(budget, 2)
    with refused(RefusalCode.BUDGET, "2 are allowed"):
        budget.check(asked(noise=ROUND, announced=ChargeLimits(maximum_participations=99)))


def test_the_owners_delta_holds_whatever_a_run_announces(tmp_path: Path) -> None:
    generous = ChargeLimits(maximum_epsilon=1e9, delta=0.999)
    budget = account(tmp_path, OwnerLimits(maximum_epsilon=2.0))
    with refused(RefusalCode.BUDGET, "2 is allowed at delta 1e-06"):
        budget.check(asked(noise=noise(1.0), announced=generous))


def test_the_same_attempt_is_never_answered_twice(tmp_path: Path) -> None:
    give(account(tmp_path), 1)
    with refused(RefusalCode.ORDER, r"has answered 'train.fit 1 0' of run 'run-1' before"):
        give(account(tmp_path), 1)


def test_an_answer_without_noise_is_counted_and_its_epsilon_is_unlimited(tmp_path: Path) -> None:
    budget = account(tmp_path)
    give(budget, 1)
    give(budget, 1, BARE, start=1)
    spent = account(tmp_path).spending()
    assert (spent.participations, spent.noiseless) == (2, 1)
    assert math.isinf(spent.epsilon)
    assert spent.noised_epsilon == pytest.approx(epsilon(COST, 1e-6))


def test_an_answer_without_noise_is_refused_where_an_epsilon_is_set(tmp_path: Path) -> None:
    with refused(RefusalCode.NOISE, "this round has none"):
        give(account(tmp_path, OwnerLimits(maximum_epsilon=1e9)), 1, BARE)


def test_no_epsilon_budget_holds_after_an_answer_without_noise(tmp_path: Path) -> None:
    give(account(tmp_path), 1, BARE)
    with refused(RefusalCode.BUDGET, "has given 1 answers without noise before"):
        give(account(tmp_path, OwnerLimits(maximum_epsilon=100)), 1, start=1)


def test_a_round_can_be_declined_before_training_for_it(tmp_path: Path) -> None:
    budget = account(tmp_path, OwnerLimits(maximum_participations=1, maximum_epsilon=8.0))
    budget.check(asked(noise=ROUND))
    with refused(RefusalCode.NOISE, "none"):
        budget.check(asked())
    give(budget, 1)
    with refused(RefusalCode.BUDGET, "1 are allowed"):
        budget.check(asked(noise=ROUND))
    assert budget.spending().participations == 1


# --- noise that is none


@pytest.mark.parametrize("multiplier", [1e-9, 1e-200, 0.1, 0.98])
def test_require_noise_refuses_noise_that_is_none_at_the_advertisement(
    tmp_path: Path, multiplier: float
) -> None:
    budget = account(tmp_path, OwnerLimits(require_noise=True))
    with refused(
        RefusalCode.NOISE, r"noise of 1 times the clip or more .* is left with its fewest survivors"
    ):
        budget.check(asked(noise=noise(multiplier)))
    budget.check(asked(noise=noise(1.0)))


def test_what_counts_is_the_noise_that_is_left_and_not_the_number_announced(tmp_path: Path) -> None:
    budget = account(tmp_path, OwnerLimits(require_noise=True))
    lie = msgspec.structs.replace(noise(0.3), noise_multiplier=50.0, clip=1e12)
    with refused(RefusalCode.NOISE, r"of this one 0\.3 is left"):
        budget.check(asked(noise=lie))


def test_require_noise_implies_a_finite_epsilon_that_can_be_set_and_not_removed(tmp_path: Path) -> None:
    budget = account(tmp_path, OwnerLimits(require_noise=True, answers_per_day=10_000))
    with refused(RefusalCode.BUDGET, "8 is allowed"):
        give(budget, 1000, noise(2.0))
    assert 5 < budget.spending().epsilon <= 8
    for endless in (math.inf, math.nan):
        with pytest.raises(ValueError, match="finite"):
            OwnerLimits(require_noise=True, maximum_epsilon=endless)


def test_an_owner_who_asks_for_noise_from_now_on_is_not_locked_out_by_what_was_given_before(
    tmp_path: Path,
) -> None:
    give(account(tmp_path), 1, BARE)
    give(account(tmp_path, OwnerLimits(require_noise=True)), 1, start=1)
    assert math.isinf(account(tmp_path).spending().epsilon)


def test_colluders_that_nobody_announces_are_counted_where_the_owner_assumes_them(tmp_path: Path) -> None:
    announced = noise(1.0, shares=10)
    account(tmp_path, OwnerLimits(require_noise=True)).check(asked(noise=announced))
    wary = OwnerLimits(require_noise=True, colluding_share=0.4)
    with refused(RefusalCode.NOISE, r"of this one 0\.775 is left"):
        account(tmp_path, wary).check(asked(noise=announced))
    assert offered(announced, wary).cost.rho == pytest.approx(0.5 / 0.6)


def test_noise_is_not_charged_for_more_devices_than_are_in_the_sum(tmp_path: Path) -> None:
    device = Owned(tmp_path, OwnerLimits(require_noise=True))
    with refused(RefusalCode.NOISE, "noise of 4 devices was announced, the sum would be over 3"):
        device.account.check_cohort(asked(noise=noise(1.0)), devices("abc"))
    question = device.mask(asked(noise=noise(1.0)))
    with refused(RefusalCode.NOISE, "the sum would be over 3"):
        device.account.reveal(question, devices("abc"))


@pytest.mark.parametrize(
    "wrong", [{"local_noise": math.nan}, {"sensitivity": math.inf}, {"local_noise": 1e-320}]
)
def test_figures_that_describe_no_noise_are_no_noise(wrong: dict[str, float]) -> None:
    found = offered(msgspec.structs.replace(noise(1.0), **wrong), OwnerLimits())
    assert not found.is_noised
    assert found.multiplier < 1e-300


# --- the file


def test_a_damaged_account_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    with account(tmp_path) as budget:
        give(budget, 5)
    (tmp_path / "privacy.sqlite").write_bytes(b"\0" * 8192)
    with pytest.raises(StorageError, match="no round is answered until it can"):
        account(tmp_path)
    assert (tmp_path / "privacy.sqlite").read_bytes() == b"\0" * 8192


def test_an_account_that_was_cut_to_nothing_is_damaged_and_not_new(tmp_path: Path) -> None:
    (tmp_path / "privacy.sqlite").touch()
    with pytest.raises(StorageError, match="holds no charges"):
        account(tmp_path)


def test_an_account_that_is_gone_while_its_snapshot_is_there_is_lost_and_not_new(tmp_path: Path) -> None:
    device = Owned(tmp_path)
    device.watch(64)
    device.snapshot()
    device.account.close()
    (tmp_path / "privacy.sqlite").unlink()
    with pytest.raises(StorageError, match="it is gone, and the snapshot that it belongs to is still there"):
        device.open()


def test_an_account_of_an_older_agent_is_migrated_with_every_charge(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "privacy.sqlite")
    db.executescript(
        "CREATE TABLE charges (number INTEGER PRIMARY KEY, run TEXT NOT NULL, round TEXT NOT NULL, at REAL NOT NULL, "
        "rho REAL NOT NULL, xi REAL NOT NULL, noised INTEGER NOT NULL, UNIQUE (run, round)) STRICT;"
        "INSERT INTO charges (run, round, at, rho, xi, noised) VALUES ('r', 'train.scaffold 1.1', 50.0, 0.01, 0, 1);"
    )
    db.close()
    with account(tmp_path) as budget:
        assert budget.spending().participations == 1
        assert budget.spending().cost == PrivacyCost(rho=0.01)
        give(budget, 1)
    assert account(tmp_path).spending().participations == 2


def test_an_account_of_a_newer_agent_is_refused(tmp_path: Path) -> None:
    account(tmp_path).close()
    db = sqlite3.connect(tmp_path / "privacy.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="of format 99, this agent knows formats up to 1"):
        account(tmp_path)


def test_a_charge_that_cannot_be_written_is_an_error_and_not_a_gift(tmp_path: Path) -> None:
    budget = account(tmp_path)
    give(budget, 1)
    budget._file._db.execute("PRAGMA query_only = ON")  # the disk as it is when it refuses
    with pytest.raises(StorageError, match="this answer does not leave the device"):
        give(budget, 1, start=1)
    budget._file._db.execute("PRAGMA query_only = OFF")
    give(budget, 1, start=1)


@pytest.mark.parametrize("table", ["charges", "answers", "reveals", "snapshots"])
def test_what_was_given_cannot_be_taken_back(tmp_path: Path, table: str) -> None:
    device = Owned(tmp_path)
    device.watch(64)
    device.snapshot()
    device.answer(asked())
    db = sqlite3.connect(tmp_path / "privacy.sqlite")
    for change in (f"DELETE FROM {table}", f"UPDATE {table} SET number = 9"):  # noqa: S608 - names from the list above
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            db.execute(change)


def test_the_account_is_the_owners_alone(tmp_path: Path) -> None:
    account(tmp_path)
    assert (tmp_path / "privacy.sqlite").stat().st_mode & 0o077 == 0


def test_a_charge_is_on_the_disk_before_an_answer_may_leave(tmp_path: Path) -> None:
    db = account(tmp_path)._file._db
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: every commit is fsynced"


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    limits = OwnerLimits(maximum_participations=2)
    learner, orphan = account(tmp_path, limits), account(tmp_path, limits)
    give(learner, 1)
    give(orphan, 1, start=1)
    with refused(RefusalCode.BUDGET, "2 are allowed"):
        give(learner, 1, start=2)
