"""Stolen keys and false repositories against a real agent process: nothing runs that its people did not list, and it says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agent_world import RELEASE_KEY, make_bundle, running_agent, status_of
from command_line import run_command
from hostile_fleet import HostileFleet, hostile_fleet
from trust_repository import TrustRepository, signer
from tuf.api.metadata import MetaFile
from waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[HostileFleet]:
    with hostile_fleet(tmp_path) as made, running_agent(made.config):
        wait_until(lambda: _release(made) == "pump/1", "the factory's release")
        yield made


def _release(fleet: HostileFleet) -> str | None:
    health: Any = status_of(fleet.config).get("health", {})
    return health.get("release")


def _outcome(fleet: HostileFleet, execution: str) -> dict[str, Any]:
    """How an installation ended on the device, in its own journal."""
    file = fleet.config.parent / "state" / "install.json"

    def found() -> dict[str, Any] | None:
        outcomes = json.loads(file.read_bytes())["outcomes"]
        return next((one for one in outcomes if one["execution"] == execution), None)

    return wait_until(found, f"the end of {execution}") or {}


def _refused(fleet: HostileFleet, execution: str, words: str, *, status: str = "REJECTED") -> None:
    outcome = _outcome(fleet, execution)
    assert (outcome["status"], words in outcome["reason"]) == (status, True), outcome["reason"]
    assert _release(fleet) == "pump/1"
    assert fleet.fetched == [], "not a byte of it was fetched"


def _resign(repository: TrustRepository) -> None:
    """What the holder of the fleet's online keys can do: a new snapshot and timestamp over whatever there is."""
    repository.publish("snapshot", "timestamp")


def test_a_listed_release_is_installed(fleet: HostileFleet) -> None:
    bundle = make_bundle(2)
    fleet.list(bundle)
    fleet.want(bundle, 2, 2)
    assert _outcome(fleet, "e2")["status"] == "SUCCEEDED"
    wait_until(lambda: _release(fleet) == "pump/2", "the new release")
    told = run_command("edge_agent", "status", "--config", str(fleet.config)).stdout
    assert "family-pump 4" in " ".join(told.split())


def test_a_new_device_that_knows_a_root_alone_runs_its_factory_release_after_the_first_answer(
    tmp_path: Path,
) -> None:
    with hostile_fleet(tmp_path) as fleet:
        shutil.rmtree(fleet.config.parent / "state" / "trust")
        with running_agent(fleet.config):
            wait_until(lambda: _release(fleet) == "pump/1", "the factory's release")


def test_who_holds_the_fleet_with_all_its_keys_cannot_have_an_unlisted_release_installed(
    fleet: HostileFleet,
) -> None:
    """Certificate, instruction key, snapshot and timestamp keys: and a bundle that the release key did sign."""
    bundle = make_bundle(2)
    _resign(fleet.repository)
    fleet.want(bundle, 2, 2)
    _refused(fleet, "e2", "does not list it")


def test_who_holds_the_fleet_cannot_list_a_release_with_a_key_of_his_own(fleet: HostileFleet) -> None:
    bundle, repository = make_bundle(2), fleet.repository
    repository.list("pump/2", bundle)
    repository.signers[repository.role] = [signer()]
    repository.publish(repository.role, "snapshot", "timestamp")
    fleet.want(bundle, 2, 2)
    _refused(fleet, "e2", "was signed by 0/1 keys", status="FAILED")


def test_who_holds_the_model_key_alone_cannot_have_anything_installed(fleet: HostileFleet) -> None:
    """He signs a bundle, and a list that names it; what leads to the list he cannot sign."""
    bundle, repository = make_bundle(2), fleet.repository
    repository.list("pump/2", bundle)
    for role in ("snapshot", "timestamp", "targets"):
        repository.signers[role] = [signer(RELEASE_KEY)]
    repository.publish()
    fleet.want(bundle, 2, 2)
    _refused(fleet, "e2", "was signed by 0/1 keys", status="FAILED")


def test_other_bytes_under_a_listed_name_are_not_installed(fleet: HostileFleet) -> None:
    fleet.list(make_bundle(2))
    fleet.want(make_bundle(2, threshold=1e300), 2, 2)
    _refused(fleet, "e2", "is not let in: the signed repository lists")


def test_a_repository_as_it_was_before_is_not_believed(fleet: HostileFleet) -> None:
    """A release that was taken from the list stays off it, whatever older list is served again."""
    bundle, repository = make_bundle(2), fleet.repository
    fleet.list(bundle)
    served = dict(repository.files)
    del repository.family.targets["models/pump/2.fedge"]
    repository.publish()
    fleet.want(bundle, 2, 2)
    _refused(fleet, "e2", "does not list it")
    repository.files = served
    fleet.want(bundle, 2, 3)
    _refused(fleet, "e3", "New timestamp version", status="FAILED")


def test_a_list_of_another_time_does_not_go_with_this_snapshot(fleet: HostileFleet) -> None:
    bundle, repository = make_bundle(2), fleet.repository
    fleet.list(bundle)
    old = repository.family.version
    del repository.family.targets["models/pump/2.fedge"]
    repository.publish()
    fleet.want(bundle, 2, 2)
    _refused(fleet, "e2", "does not list it")
    repository.snapshot.meta[f"{repository.role}.json"] = MetaFile(old)
    _resign(repository)
    fleet.want(bundle, 2, 3)
    _refused(fleet, "e3", "Expected family-pump.json version", status="FAILED")


def test_a_release_of_another_family_is_not_installed_whatever_it_is_called(fleet: HostileFleet) -> None:
    bundle = make_bundle(2)
    fleet.list(bundle)
    fleet.want(bundle, 2, 2, family="fan")
    _refused(fleet, "e2", "is of family 'fan'; this device runs family 'pump'")


def test_a_name_that_would_lead_elsewhere_is_refused_and_listed_nowhere(fleet: HostileFleet) -> None:
    bundle = make_bundle(2)
    fleet.list(bundle)
    before = sorted(fleet.config.parent.rglob("*.fedge"))
    for counter, release in enumerate(
        ("../../etc/2", "pump/../2", "pump/..", "pump/%2e%2e/2", "pump/2/3"), 2
    ):
        fleet.want(bundle, 2, counter, release=release)
        _refused(fleet, f"e{counter}", "is not of the form family/version")
    assert sorted(fleet.config.parent.rglob("*.fedge")) == before


def test_a_frozen_repository_is_told_and_lets_nothing_in(tmp_path: Path) -> None:
    with hostile_fleet(tmp_path) as fleet:
        repository = fleet.repository
        # Before this version was made: a device whose clock nobody keeps knows that much, and no more.
        repository.timestamp.expires = datetime(2025, 12, 31, tzinfo=UTC)
        repository.publish("timestamp")
        bundle = make_bundle(2)
        with running_agent(fleet.config):
            wait_until(lambda: _release(fleet) == "pump/1", "the factory's release")
            fleet.list(bundle)
            fleet.want(bundle, 2, 2)
            _refused(fleet, "e2", "expired by this device's clock", status="FAILED")
            problems: Any = status_of(fleet.config)["problems"]
            assert any(
                "the fleet serves a repository that this device does not believe" in problem
                for problem in problems
            )
            repository.timestamp.expires = repository.day(1)
            repository.publish("timestamp")
            fleet.want(bundle, 2, 3)
            assert _outcome(fleet, "e3")["status"] == "SUCCEEDED"
