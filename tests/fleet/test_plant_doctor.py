"""Each thing that can be wrong with a plant is found, and said with what to do; looking changes nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plant_world import ask, copy_of, findings

from fleet.plant.certificates import ServicesCa, names_of
from fleet.plant.doctor.findings import DAY_S, Verdict
from fleet.plant.doctor.keys import examine_certificates, examine_repository
from fleet.plant.doctor.roads import clock
from fleet.plant.doctor.surroundings import examine_backup
from service.plant import Plant

pytestmark = pytest.mark.slow


def verdicts(plant: Plant) -> dict[str, str]:
    return {matter: one["verdict"] for matter, one in findings(plant).items()}


def everything(plant: Plant) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in plant.folder.rglob("*") if path.is_file()}


def opened(plant: Plant) -> None:
    plant.admin_token.chmod(0o644)


def swapped_key(plant: Plant) -> None:
    shutil.copy(plant.key("broker"), plant.key("fleet"))


def of_another_ca(plant: Plant) -> None:
    other = ServicesCa(key_file=plant.folder / "other.key", file=plant.folder / "other.pem")
    other.ensure(time.time())
    names = names_of("fleet", "localhost")
    other.issue("fleet", names, file=plant.certificate("fleet"), key_file=plant.key("fleet"), now=time.time())


def of_another_host(plant: Plant) -> None:
    authority = ServicesCa(key_file=plant.ca_key, file=plant.ca)
    authority.issue(
        "broker",
        ["elsewhere"],
        file=plant.certificate("broker"),
        key_file=plant.key("broker"),
        now=time.time(),
    )


def no_certificate(plant: Plant) -> None:
    plant.certificate("aggregator").write_text("nothing")


def no_repository(plant: Plant) -> None:
    shutil.rmtree(plant.fleet_data / "trust")


def no_database(plant: Plant) -> None:
    (plant.fleet_data / "fleet.sqlite").unlink()


def broken_family(plant: Plant) -> None:
    plant.family_file("valve").write_text("name = \n")


def unnamed_family(plant: Plant) -> None:
    plant.family_file("valve").write_text("[[family]]\nname = 'valve'\n")


@pytest.mark.parametrize(
    ("break_it", "matter", "said", "remedy"),
    [
        (opened, "secrets", "admin.token", "chmod 600"),
        (swapped_key, "certificate of the fleet", "do not belong together", "--renew"),
        (of_another_ca, "certificate of the fleet", "is not signed by", "--renew"),
        (of_another_host, "certificate of the broker", "does not name 127.0.0.1, localhost", "--renew"),
        (no_certificate, "certificate of the aggregator", "no certificate in PEM", "--renew"),
        (no_repository, "signed repository", "", "restore fleet/data/trust"),
        (broken_family, "family valve", "Invalid value", "mend it"),
        (unnamed_family, "family valve", "devices take no release", "fedge fleet trust admit valve"),
    ],
)
def test_what_is_broken_is_found_with_its_remedy_and_nothing_else_is_blamed(
    made_plant: Plant, tmp_path: Path, break_it: Callable[[Plant], None], matter: str, said: str, remedy: str
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    break_it(plant)
    found = findings(plant)[matter]
    assert found["verdict"] == "bad"
    assert said in found["seen"]
    assert remedy in found["remedy"]
    assert [name for name, verdict in verdicts(plant).items() if verdict == "bad"] == [matter]


def test_a_database_that_is_not_there_yet_is_no_fault_and_is_not_made(
    made_plant: Plant, tmp_path: Path
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    no_database(plant)
    before = everything(plant)
    found = findings(plant)["database"]
    assert (found["verdict"], "schema none" in found["seen"]) == ("warn", True)
    assert everything(plant) == before


def test_a_backup_is_asked_for_until_one_was_made_and_again_when_it_is_old(
    made_plant: Plant, tmp_path: Path
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    assert findings(plant)["backup"]["seen"] == "none was made here"
    assert ask(plant, "backup", str(tmp_path / "plant.backup")).returncode == 0
    found = findings(plant)["backup"]
    assert found["verdict"] == "ok"
    assert "plant.backup of " in found["seen"]
    assert found["seen"].endswith(", 0 changes since")
    assert ask(plant, "trust", "admit", "valve").returncode == 0
    assert not findings(plant)["backup"]["seen"].endswith(", 0 changes since")
    (old,) = examine_backup(plant, time.time() + 8 * DAY_S)
    assert (old.verdict, old.remedy.startswith("fedge backup")) == (Verdict.WARN, True)


@pytest.mark.parametrize(("days", "verdict"), [(0, "ok"), (390, "warn"), (399, "bad"), (-2, "bad")])
def test_a_certificate_is_told_of_two_weeks_before_it_ends(
    made_plant: Plant, days: int, verdict: str
) -> None:
    found = examine_certificates(made_plant, time.time() + days * DAY_S)
    assert {one.matter: one.verdict for one in found}["certificate of the fleet"] == verdict


@pytest.mark.parametrize(("days", "verdict"), [(0, "ok"), (320, "warn"), (400, "bad")])
def test_a_repository_is_told_of_two_months_before_it_ends(
    made_plant: Plant, days: int, verdict: str
) -> None:
    (found,) = examine_repository(made_plant, time.time() + days * DAY_S)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("apart_s", "verdict"),
    [(0.4, Verdict.OK), (-1.9, Verdict.OK), (5.0, Verdict.WARN), (-3600.0, Verdict.BAD)],
)
def test_clocks_that_are_apart_are_told_of_before_certificates_suffer(
    apart_s: float, verdict: Verdict
) -> None:
    assert clock("clock", apart_s).verdict is verdict
