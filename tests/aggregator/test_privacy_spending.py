"""What a device has given, run by run, and what is left of its budget: as the ledger has it, over the API."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator_api_world import Service
from aggregator_world import POLICY
from ledger_world import COHORT, EVERYBODY, FAMILY, NOISE, SILENT, accounts_at, play, round_id

from aggregator.privacy.ledger_entries import Outcome
from aggregator.privacy.settings import FamilyBudget
from aggregator.privacy.spending import Spent, spent_by_device, spent_by_family
from protocol.names import DeviceId
from protocol.privacy_cost import epsilon, round_cost
from service.roles import Role

BUDGET = FamilyBudget(epsilon_server=40.0, maximum_participations=3)
FIRST, LAST = COHORT[0], COHORT[-1]


def test_a_device_is_told_what_each_run_cost_and_what_is_left(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path, BUDGET)
    most = COHORT[:-1]
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY, participants=most)
    play(accounts, 2, COHORT, noise=NOISE, sampling=EVERYBODY, outcome=Outcome.VOID)
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY, run="run-2")
    found = spent_by_device(FIRST, FAMILY, accounts.rounds(FAMILY), BUDGET)
    assert found is not None
    assert [(run.run, run.asked, run.sums, run.questions) for run in found.runs] == [
        ("run-2", 1, 1, {"train.fit": 1}),
        ("run-1", 2, 1, {"train.fit": 1}),
    ]
    # the costs of both sums, worked out beside the accountant (Rényi orders and δ are the same)
    together = epsilon(round_cost(NOISE, 19) + round_cost(NOISE, 20), BUDGET.delta)
    assert found.epsilon.spent == pytest.approx(together, rel=1e-6)
    assert found.epsilon.left == pytest.approx(40.0 - together)
    assert (found.sums.spent, found.sums.left) == (2, 1)
    absent = spent_by_device(LAST, FAMILY, accounts.rounds(FAMILY), BUDGET)
    assert absent is not None
    assert (absent.sums.spent, absent.runs[1].sums, absent.runs[1].epsilon) == (1, 0, 0.0)
    assert spent_by_device(DeviceId("stranger"), FAMILY, accounts.rounds(FAMILY), BUDGET) is None
    accounts.close()


def test_one_sum_without_noise_leaves_nothing_of_a_limit(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    play(accounts, 1, COHORT, noise=SILENT, sampling=EVERYBODY)
    found = spent_by_family(FAMILY, accounts.rounds(FAMILY), BUDGET)
    assert (found.epsilon_server.spent, found.epsilon_server.left) == (float("inf"), 0.0)
    assert (found.noiseless, found.devices, found.sums.left) == (1, 20, 2)
    assert Spent(spent=float("inf"), limit=None).left is None
    accounts.close()


def test_a_round_that_is_open_counts_as_given_by_all_who_were_asked(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path, BUDGET)
    accounts.open_round(round_id(1), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    found = spent_by_device(LAST, FAMILY, accounts.rounds(FAMILY), BUDGET)
    assert found is not None
    assert found.sums.spent == 1
    assert found.epsilon.spent > 0
    accounts.close()


def test_the_api_tells_it_and_has_no_infinity(tmp_path: Path) -> None:
    service = Service(tmp_path, POLICY)
    play(service.accounts, 1, COHORT, noise=SILENT, sampling=EVERYBODY)
    headers = service.headers[Role.VIEWER]
    device = service.http.get(f"/v1/privacy/devices/{FIRST}", headers=headers).json()
    (given,) = device["families"]
    assert given["epsilon"] == {"spent": None, "limit": None, "left": None}
    assert (given["noiseless"], given["runs"][0]["epsilon"]) == (1, None)
    families = service.http.get("/v1/privacy", headers=headers).json()["items"]
    assert [(one["family"], one["mode"], one["rounds"]) for one in families] == [
        (FAMILY, "unknown", 1),
        ("pump", "plain", 0),
    ]
    stranger = service.http.get("/v1/privacy/devices/never-seen", headers=headers)
    assert (stranger.status_code, stranger.json()["families"]) == (200, [])
    service.close()
