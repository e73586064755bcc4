"""Settings of secure rounds: what is on by default, what cannot be meant, and that plain mode is never silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator_world import TRUSTED, first_bundle
from cryptography.hazmat.primitives.asymmetric import ec
from family_changes import changed, family
from structlog.testing import capture_logs

from aggregator.errors import PrivacyBudgetError
from aggregator.federation import FlowerFederation
from aggregator.flower.server import FlowerServer, FlowerServerSettings
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.champion import read_champion
from aggregator.rounds.collector import PlainCollector
from aggregator.rounds.privacy_plan import planned_questions
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.secure_collector import SecureCollector
from protocol.identity import public_key_pem
from protocol.names import DeviceId, FamilyName, RunId

FAMILY = FamilyName("press")
CHAMPION = read_champion(first_bundle(), TRUSTED)
DEVICES = frozenset(DeviceId(f"press-{i}") for i in range(20))


def run(rounds: int = 5) -> TrainingRun:
    return TrainingRun(
        id=RunId("run-1"),
        family=FAMILY,
        trigger="person",
        reason="a test",
        requested_by="tester",
        rounds=rounds,
        state=RunState.INVITING,
        created_at=0.0,
        updated_at=0.0,
    )


def test_secure_sum_is_the_default_and_has_no_noise() -> None:
    settings = family(FAMILY)
    assert settings.secure_sum.enabled
    assert settings.sum_policy.privacy.noise is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cohort": {"minimum_devices": 2}}, "too few for a secure sum"),
        (
            {"secure_sum": {"enabled": False}, "privacy": {"noise": {"noise_multiplier": 1.0}}},
            "needs secure_sum.enabled = true",
        ),
        ({"privacy": {"noise": {"noise_multiplier": 1.0, "colluders": 3}}}, "leaves nobody honest"),
        ({"privacy": {"budget": {"epsilon_server": 3.0}}}, "without noise.noise_multiplier"),
        ({"cohort": {"sampling": "poisson", "fraction": 0.5}}, "taken in groups that stay the same"),
        ({"cohort": {"group_devices": 3}}, "group_devices"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        family(FAMILY, **values)


def test_run_beyond_the_budget_is_refused_before_it_starts_and_told_what_would_fit(tmp_path: Path) -> None:
    privacy = {"noise": {"noise_multiplier": 1.0}, "budget": {"epsilon_server": 5.0, "delta": 1e-5}}
    settings = family(FAMILY, cohort={"minimum_devices": 10}, privacy=privacy)
    accounts = PrivacyAccounts(tmp_path / "ledger.sqlite", {FAMILY: settings.privacy.budget}, now=lambda: 0.0)
    with pytest.raises(PrivacyBudgetError, match="the budget is 5"):
        accounts.plan_run(run().id, FAMILY, planned_questions(run(), settings, CHAMPION, DEVICES))
    assert accounts.rounds(FAMILY) == ()
    quiet = changed(settings, privacy__noise__noise_multiplier=8.0)
    accounts.plan_run(run().id, FAMILY, planned_questions(run(), quiet, CHAMPION, DEVICES))
    accounts.close()


def test_session_in_plain_is_logged_as_a_warning_and_a_secure_one_is_not(tmp_path: Path) -> None:
    accounts = PrivacyAccounts(tmp_path / "ledger.sqlite", {}, now=lambda: 0.0)
    settings = FlowerServerSettings(
        tls_cert=tmp_path / "unused", tls_key=tmp_path / "unused", data_dir=tmp_path / "flower"
    )
    federation = FlowerFederation(FlowerServer(settings, ec.generate_private_key(ec.SECP256R1())), accounts)
    roster = {DeviceId("a"): public_key_pem(ec.generate_private_key(ec.SECP256R1()).public_key())}
    with capture_logs() as logs:
        secure = federation.open(RunId("r1"), roster, family(FAMILY))
        assert logs == []
        plain = federation.open(RunId("r2"), roster, family(FAMILY, secure_sum={"enabled": False}))
    assert isinstance(secure.collector, SecureCollector)
    assert isinstance(plain.collector, PlainCollector)
    assert [(entry["event"], entry["log_level"], entry["run"]) for entry in logs] == [
        ("secure_sum_off", "warning", "r2")
    ]
    accounts.close()
