"""The device's own privacy account: durable, never reset, enforced before an answer leaves."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import pytest

from edge_agent.cli import main
from edge_agent.errors import (
    AlreadyGivenError,
    EpsilonSpentError,
    NoiseRequiredError,
    ParticipationsSpentError,
)
from edge_agent.privacy.budget import ChargeLimits, DeviceBudget
from protocol.privacy_cost import PrivacyCost, epsilon
from runtime.errors import StorageError

pytestmark = pytest.mark.edge

ROUND = PrivacyCost(rho=0.01)
BARE = PrivacyCost(rho=math.inf)
FREE = ChargeLimits()


def account(folder: Path, limits: ChargeLimits = FREE) -> DeviceBudget:
    return DeviceBudget(folder / "privacy.sqlite", limits)


def give(budget: DeviceBudget, count: int, cost: PrivacyCost = ROUND, *, start: int = 0) -> None:
    for number in range(start, start + count):
        budget.charge("run-1", f"train.fit {number}", cost, now_s=100.0 + number)


def test_a_new_account_has_given_nothing(tmp_path: Path) -> None:
    spent = account(tmp_path).spending()
    assert (spent.participations, spent.noiseless, spent.epsilon, spent.last_at_s) == (0, 0, 0.0, None)


def test_what_was_given_survives_a_restart(tmp_path: Path) -> None:
    with account(tmp_path) as budget:
        give(budget, 3)
    spent = account(tmp_path).spending()
    assert spent.participations == 3
    assert spent.last_at_s == 102.0
    assert spent.epsilon == pytest.approx(epsilon(PrivacyCost(rho=0.03), 1e-6))


def test_the_cap_on_participations_holds_over_runs_and_restarts(tmp_path: Path) -> None:
    limits = ChargeLimits(maximum_participations=3)
    with account(tmp_path, limits) as budget:
        give(budget, 2)
    budget = account(tmp_path, limits)
    budget.charge("run-2", "train.fit 1", ROUND, now_s=0)
    with pytest.raises(ParticipationsSpentError, match="has given 3 answers, 3 are allowed"):
        budget.charge("run-3", "train.fit 1", ROUND, now_s=0)
    assert budget.spending().participations == 3


def test_the_epsilon_budget_is_never_exceeded(tmp_path: Path) -> None:
    budget = account(tmp_path, ChargeLimits(maximum_epsilon=2.0))
    with pytest.raises(
        EpsilonSpentError, match=r"would bring the device's epsilon to 2\.\d+, 2 is allowed at delta 1e-06"
    ):
        give(budget, 1000)
    spent = budget.spending()
    assert 1.8 < spent.epsilon <= 2.0
    assert epsilon(spent.cost + ROUND, 1e-6) > 2.0


def test_a_run_may_announce_stricter_limits_never_looser_ones(tmp_path: Path) -> None:
    budget = account(tmp_path, ChargeLimits(maximum_participations=2))
    with pytest.raises(ParticipationsSpentError, match="0 answers, 0 are allowed"):
        budget.charge("r", "a", ROUND, now_s=0, announced=ChargeLimits(maximum_participations=0))
    give(budget, 2)
    with pytest.raises(ParticipationsSpentError):
        budget.charge("r", "a", ROUND, now_s=0, announced=ChargeLimits(maximum_participations=99))


def test_the_same_attempt_is_never_answered_twice(tmp_path: Path) -> None:
    give(account(tmp_path), 1)
    with pytest.raises(AlreadyGivenError, match=r"has answered 'train.fit 0' of run 'run-1' before"):
        give(account(tmp_path), 1)


def test_an_answer_without_noise_is_counted_and_its_epsilon_is_unlimited(tmp_path: Path) -> None:
    budget = account(tmp_path)
    give(budget, 1)
    give(budget, 1, BARE, start=1)
    spent = account(tmp_path).spending()
    assert (spent.participations, spent.noiseless) == (2, 1)
    assert math.isinf(spent.epsilon)
    assert spent.noised_epsilon == pytest.approx(epsilon(ROUND, 1e-6))


@pytest.mark.parametrize("limits", [ChargeLimits(require_noise=True), ChargeLimits(maximum_epsilon=1e9)])
def test_an_answer_without_noise_is_refused_where_noise_is_required(
    tmp_path: Path, limits: ChargeLimits
) -> None:
    with pytest.raises(NoiseRequiredError, match="this round has none"):
        give(account(tmp_path, limits), 1, BARE)


def test_no_epsilon_budget_holds_after_an_answer_without_noise(tmp_path: Path) -> None:
    give(account(tmp_path), 1, BARE)
    with pytest.raises(EpsilonSpentError, match="has given 1 answers without noise before"):
        give(account(tmp_path, ChargeLimits(maximum_epsilon=100)), 1, start=1)


def test_a_round_can_be_declined_before_training_for_it(tmp_path: Path) -> None:
    budget = account(tmp_path, ChargeLimits(maximum_participations=1, require_noise=True))
    budget.check(ROUND)
    with pytest.raises(NoiseRequiredError):
        budget.check(BARE)
    give(budget, 1)
    with pytest.raises(ParticipationsSpentError):
        budget.check(ROUND)
    assert budget.spending().participations == 1


@pytest.mark.parametrize(
    "wrong", [PrivacyCost(rho=-1.0), PrivacyCost(rho=math.nan), PrivacyCost(rho=1.0, xi=math.nan)]
)
def test_a_cost_that_is_none_is_not_charged(tmp_path: Path, wrong: PrivacyCost) -> None:
    with pytest.raises(ValueError, match="never negative"):
        give(account(tmp_path), 1, wrong)
    assert account(tmp_path).spending().participations == 0


def test_a_damaged_account_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    with account(tmp_path) as budget:
        give(budget, 5)
    (tmp_path / "privacy.sqlite").write_bytes(b"\0" * 8192)
    with pytest.raises(StorageError, match="no round is answered until it can"):
        account(tmp_path)
    assert (tmp_path / "privacy.sqlite").read_bytes() == b"\0" * 8192


def test_a_charge_that_cannot_be_written_is_an_error_and_not_a_gift(tmp_path: Path) -> None:
    budget = account(tmp_path)
    give(budget, 1)
    budget._db.execute("PRAGMA query_only = ON")  # the disk as it is when it refuses
    with pytest.raises(StorageError, match="this answer does not leave the device"):
        give(budget, 1, start=1)
    budget._db.execute("PRAGMA query_only = OFF")
    give(budget, 1, start=1)


def test_charges_cannot_be_taken_back(tmp_path: Path) -> None:
    give(account(tmp_path), 1)
    db = sqlite3.connect(tmp_path / "privacy.sqlite")
    for change in ("DELETE FROM charges", "UPDATE charges SET rho = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            db.execute(change)


def test_the_account_is_the_owners_alone(tmp_path: Path) -> None:
    account(tmp_path)
    assert (tmp_path / "privacy.sqlite").stat().st_mode & 0o077 == 0


def test_a_charge_is_on_the_disk_before_an_answer_may_leave(tmp_path: Path) -> None:
    db = account(tmp_path)._db
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: every commit is fsynced"


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    limits = ChargeLimits(maximum_participations=2)
    learner, orphan = account(tmp_path, limits), account(tmp_path, limits)
    learner.charge("r", "a", ROUND, now_s=0)
    orphan.charge("r", "b", ROUND, now_s=0)
    with pytest.raises(ParticipationsSpentError):
        learner.charge("r", "c", ROUND, now_s=0)


# --- fedge-agent privacy


def config_in(folder: Path, privacy: str = "") -> Path:
    config = folder / "agent.toml"
    config.write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\nrelease_keys = ["r.pem"]\n'
        f'[source]\nkind = "simulated"\n[privacy]\n{privacy}\n'
    )
    (folder / "state").mkdir()
    return config


def test_the_command_shows_a_device_that_never_took_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["privacy", "--config", str(config_in(tmp_path)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["participations"] == 0
    assert shown["epsilon"] == 0
    assert shown["maximum_participations"] == 10_000
    assert not (tmp_path / "state" / "privacy.sqlite").exists(), "looking makes no account"


def test_the_command_shows_what_was_given_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, "maximum_participations = 50\nmaximum_epsilon = 3.0\ndelta = 1e-5")
    with account(tmp_path / "state") as budget:
        give(budget, 4)
    assert main(["privacy", "--config", str(config), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["epsilon"] == pytest.approx(epsilon(PrivacyCost(rho=0.04), 1e-5))
    assert (shown["maximum_epsilon"], shown["noiseless"], shown["last_at_s"]) == (3.0, 0, 103.0)
    assert main(["privacy", "--config", str(config)]) == 0
    words = capsys.readouterr().out
    assert "4, 46 more are allowed" in words
    assert "1970-01-01 00:01 UTC" in words


def test_the_command_says_unlimited_after_an_answer_without_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path)
    with account(tmp_path / "state") as budget:
        give(budget, 1, BARE)
    main(["privacy", "--config", str(config), "--json"])
    assert json.loads(capsys.readouterr().out)["epsilon"] is None
    main(["privacy", "--config", str(config)])
    words = capsys.readouterr().out
    assert "unlimited" in words
    assert "require_noise = true in [privacy]" in " ".join(words.split())


def test_the_command_tells_of_a_damaged_account_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path)
    (tmp_path / "state" / "privacy.sqlite").write_bytes(b"damaged" * 1000)
    assert main(["privacy", "--config", str(config)]) == 2
    assert "the privacy account" in capsys.readouterr().err


def test_a_limit_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "--config", str(config_in(tmp_path, "maximum_epsilon = 0.0"))]) == 2
    assert "privacy.maximum_epsilon = 0.0 is not valid" in capsys.readouterr().err
