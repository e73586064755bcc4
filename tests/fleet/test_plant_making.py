"""One command makes a plant whose services take their settings; made again, nothing is lost, and what must be renewed is said."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from command_line import run_command
from plant_world import ask, copy_of, findings, init_plant
from plant_world import port_options as ports

from aggregator.settings import load_aggregator_settings
from fleet.plant.certificates import names_in, read_certificate
from fleet.plant.keys import admit_family
from fleet.settings import load_fleet_settings
from fleet.trust.repository import TrustRepository
from runtime.errors import SettingsError
from service.plant import Plant, load_plant

pytestmark = pytest.mark.slow


def read_unit(path: Path) -> dict[str, list[str]]:
    """What a unit file says: key → its values, in order."""
    unit: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            unit.setdefault(key, []).append(value)
    return unit


def contents(plant: Plant) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(plant.folder.rglob("*")) if path.is_file()}


def test_both_services_find_their_settings_valid(made_plant: Plant) -> None:
    fleet = run_command("fleet", "check-config", "--config", str(made_plant.fleet_config))
    aggregator = run_command("aggregator", "check-config", "--config", str(made_plant.aggregator_config))
    assert (fleet.returncode, aggregator.returncode) == (0, 0), fleet.stderr + aggregator.stderr
    assert "tenant acme" in fleet.stdout
    assert "tenant acme" in aggregator.stdout


def test_a_secret_is_its_owners_alone(made_plant: Plant) -> None:
    named = [*made_plant.pki.rglob("*.key"), *made_plant.tokens.iterdir(), made_plant.fleet_config]
    named += [*made_plant.fleet_data.rglob("*.key"), *made_plant.aggregator_data.glob("*.key")]
    assert len(named) > 15
    assert {stat.S_IMODE(path.stat().st_mode) for path in named} == {0o600}
    assert stat.S_IMODE(made_plant.folder.stat().st_mode) == 0o700


def test_a_plant_within_a_repository_hands_no_key_to_it(made_plant: Plant, tmp_path: Path) -> None:
    where = tmp_path / "repository"
    shutil.copytree(made_plant.folder, where / "plant", ignore=shutil.ignore_patterns("*.sock"))
    (where / "plant" / "families").mkdir(exist_ok=True)
    (where / "plant" / "families" / "pump.toml").write_text("x = 1\n")
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=where, check=True)
    taken = subprocess.run(["git", "ls-files"], cwd=where, check=True, capture_output=True, text=True).stdout
    assert taken.split() == ["plant/.gitignore", "plant/families/pump.toml", "plant/plant.toml"]


def test_units_and_containers_start_this_plants_own_files_and_nothing_that_is_not_there(
    made_plant: Plant,
) -> None:
    services = yaml.safe_load(made_plant.compose.read_text())["services"]
    assert set(services) == {"prepare", "broker", "fleet", "aggregator"}
    units = {path.name: read_unit(path) for path in made_plant.systemd.iterdir()}
    assert set(units) == {"fedge-broker.service", "fedge-fleet.service", "fedge-aggregator.service"}
    commands = [words for one in services.values() for words in [one["command"]]]
    commands += [unit["ExecStart"][0].split() for unit in units.values()]
    for command in commands:
        named = [Path(word) for word in command if word.startswith("/")]
        assert all(path.exists() for path in named), command
        assert any(path.is_relative_to(made_plant.folder) for path in named), command
    for unit in units.values():
        assert all(Path(path).is_relative_to(made_plant.folder) for path in unit["ReadWritePaths"][0].split())
        assert unit["Restart"] == ["always"]


def test_made_again_nothing_changes_and_all_is_kept(made_plant: Plant, tmp_path: Path) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    init_plant(plant.folder)  # what names the folder itself
    before = contents(plant)
    again = init_plant(plant.folder, "--json")
    assert again.returncode == 0, again.stderr
    assert set(json.loads(again.stdout)["files"].values()) == {"kept"}
    assert contents(plant) == before


def test_what_somebody_changed_is_left_alone_and_what_is_gone_comes_back(
    made_plant: Plant, tmp_path: Path
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    theirs = plant.fleet_config.read_text().replace("[mqtt]", "offline_after_s = 60.0\n\n[mqtt]")
    assert "offline_after_s" in theirs
    plant.fleet_config.write_text(theirs)
    token = plant.admin_token.read_text()
    public = plant.release_key.with_suffix(".pub.pem")
    for path in (plant.admin_token, plant.root_file, plant.compose, plant.ca, public):
        path.unlink()
    again = init_plant(plant.folder)
    assert again.returncode == 0, again.stderr
    assert "yours, left alone: fleet/fleet.toml" in again.stdout
    assert plant.fleet_config.read_text() == theirs
    assert plant.admin_token.read_text() != token
    for path in (plant.root_file, plant.ca, public):
        assert path.read_bytes() == (made_plant.folder / path.relative_to(plant.folder)).read_bytes()
    assert plant.compose.exists()


def test_another_host_is_said_and_done_only_when_it_is_asked_for(made_plant: Plant, tmp_path: Path) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    init_plant(plant.folder)
    before = contents(plant)
    refused = init_plant(plant.folder, "--host", "plant.example.com")
    assert refused.returncode == 2
    assert "host is localhost, not plant.example.com" in refused.stderr
    assert "certificates" in refused.stderr
    assert "--renew" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert contents(plant) == before
    done = init_plant(plant.folder, "--host", "plant.example.com", "--renew")
    assert done.returncode == 0, done.stderr
    renewed = load_plant(plant.folder)
    assert renewed.fleet_url.startswith("https://plant.example.com:")
    for service in ("broker", "fleet", "aggregator"):
        names = names_in(read_certificate(renewed.certificate(service)))
        assert {"plant.example.com", "localhost", "127.0.0.1"} <= set(names)
        ssl.create_default_context().load_cert_chain(renewed.certificate(service), renewed.key(service))
    assert "plant.example.com:" in renewed.aggregator_config.read_text()
    assert load_fleet_settings(renewed.fleet_config, {}).dashboard.public_url == renewed.fleet_url
    assert renewed.admin_token.read_bytes() == plant.admin_token.read_bytes()


def test_without_the_cas_key_nothing_is_renewed_and_the_line_says_what_to_bring(
    made_plant: Plant, tmp_path: Path
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    shutil.move(plant.offline, tmp_path / "safe")
    again = init_plant(plant.folder, "--renew")
    assert again.returncode == 2
    assert "ca.key is not here" in again.stderr
    assert read_certificate(plant.certificate("fleet")) == read_certificate(made_plant.certificate("fleet"))


def test_a_stolen_certificate_loses_its_worth_at_the_broker_alone(made_plant: Plant, tmp_path: Path) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    done = ask(plant, "init", "clients")
    assert done.returncode == 0, done.stderr
    trusted = (plant.broker / "clients.pem").read_text()
    assert plant.clients_ca.read_text() in trusted
    assert plant.ca.read_text() not in trusted
    for service, config in (("fleet", plant.fleet_config), ("aggregator", plant.aggregator_config)):
        settings = tomllib.loads(config.read_text())
        assert settings["mqtt"]["tls_cert"] == f"../pki/clients/{service}.pem"
        assert settings["tls_cert"] == f"../pki/{service}.pem"
    for path in (plant.ca, plant.certificate("fleet"), plant.key("broker")):
        assert path.read_bytes() == (made_plant.folder / path.relative_to(plant.folder)).read_bytes()
    checked = run_command("fleet", "check-config", "--config", str(plant.fleet_config))
    assert checked.returncode == 0, checked.stderr
    again = plant.clients_ca.read_text()
    assert ask(plant, "init", "clients").returncode == 0
    assert plant.clients_ca.read_text() != again


def test_a_family_is_admitted_once_and_only_with_the_key_that_may(made_plant: Plant, tmp_path: Path) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    admitted = ask(plant, "trust", "admit", "valve")
    assert admitted.returncode == 0, admitted.stderr
    repository = TrustRepository(plant.fleet_data / "trust")
    assert repository.published().family_keys("valve")
    assert not repository.published().family_keys("motor")
    assert "is admitted already" in ask(plant, "trust", "admit", "valve").stdout
    shutil.move(plant.offline, tmp_path / "safe")
    with pytest.raises(SettingsError, match=r"targets\.key is not here"):
        admit_family(plant, "motor")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], 2, "Give --host NAME"),
        (["--host", "a b"], 2, "is no name or address"),
        (["--host", "localhost", "--database", "mysql://db/x"], 2, "valid: postgresql://user@host/name"),
        (["--host", "localhost", "--database", "postgresql://u:hunter2@127.0.0.1:1/x"], 1, "nothing listens at 127.0.0.1:1"),
        (["--host", "localhost", "--tenant", "a/b"], 2, "tenant"),
        (["--host", "localhost", "--port", "web=80"], 2, "where NAME is fleet, aggregator, flower, broker"),
        (["--host", "localhost", "--port", "fleet=70000"], 2, "1 to 65535"),
        (["--host", "plant.example.com", "--broker", "embedded"], 2, "serves this machine alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_made(
    tmp_path: Path, options: list[str], status: int, said: str
) -> None:
    done = init_plant(tmp_path / "plant", *options)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "plant").exists()


def test_a_folder_that_holds_something_else_is_not_made_a_plant(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    done = init_plant(tmp_path, "--host", "localhost")
    assert done.returncode == 1
    assert "neither empty nor a plant" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def check_overlay(plant: Plant) -> None:
    """Kubernetes takes it, the programs take its settings, and every secret of it is its owner's alone."""
    overlay = plant.kubernetes
    for path in (overlay / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    fleet = load_fleet_settings(
        overlay / "fleet.toml", {"FEDGE_FLEET_SERVICE_DATABASE_URL": "postgresql+psycopg://fedge@db/fedge"}
    )
    assert fleet.mqtt is not None
    assert fleet.mqtt.shared
    load_aggregator_settings(overlay / "aggregator.toml", {})
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return  # a machine without it; the base is looked at file by file in tests/house/test_kubernetes.py
    built = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    manifest = overlay / "all.yaml"
    manifest.write_text(built.stdout)
    validate = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([validate, "--strict", manifest], capture_output=True, text=True, check=False)
    manifest.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    pods = {one["metadata"]["name"]: one["spec"]["template"]["spec"]
            for one in yaml.safe_load_all(built.stdout) if one["kind"] in {"Deployment", "StatefulSet"}}  # fmt: skip
    assert set(pods) == {"fleet", "aggregator", "broker"}
    secrets = {one["metadata"]["name"]: set(one["data"])
               for one in yaml.safe_load_all(built.stdout) if one["kind"] == "Secret"}  # fmt: skip
    for service, settings in (("fleet", fleet), ("aggregator", None)):
        (seed,) = pods[service]["initContainers"]
        assert {mount["name"] for mount in seed["volumeMounts"]} == {"seed", "data"}
        with tarfile.open(overlay / f"secrets/{service}-data.tar") as archive:
            assert {"trust", "device-ca.key"} <= set(
                archive.getnames()
            ) or "identity.key" in archive.getnames()
        assert settings is None or str(settings.data_dir) == "/var/lib/fedge-fleet"
    named = set(re.findall(r"/etc/fedge-(?:pki|keys)/([\w.-]+)", (overlay / "fleet.toml").read_text()))
    named |= set(re.findall(r"/etc/fedge-keys/([\w.-]+)", (overlay / "aggregator.toml").read_text()))
    given = {
        key
        for name, keys in secrets.items()
        for key in keys
        if name.startswith(("fleet-pki", "aggregator-keys"))
    }
    assert named <= given


def test_a_plant_on_postgresql_hides_the_password_and_says_what_is_wrong_with_the_database(
    postgresql_databases: object, postgresql_url: str, tmp_path: Path
) -> None:
    with_password = postgresql_url.replace("postgresql+psycopg://fedge@", "postgresql://fedge:hunter2@")
    folder = tmp_path / "plant"
    made = init_plant(folder, "--host", "plant.example.com", "--database", with_password, *ports())
    assert made.returncode == 0, made.stderr
    plant = load_plant(folder)
    holds = [path for path, content in contents(plant).items() if b"hunter2" in content]
    assert holds == [plant.fleet_config, plant.kubernetes / "secrets/database.url"]
    assert {path.stat().st_mode & 0o077 for path in holds} == {0}
    assert "hunter2" not in made.stdout
    assert plant.description.database is not None
    again = init_plant(folder, "--json")
    assert set(json.loads(again.stdout)["files"].values()) == {"kept"}
    assert findings(plant)["database"]["seen"].startswith("PostgreSQL ")
    assert findings(plant)["clock of the database"]["verdict"] == "ok"
    check_overlay(plant)
    gone = plant.fleet_config.read_text().replace("/fleet_", "/no_such_")
    plant.fleet_config.write_text(gone)
    found = findings(plant)["database"]
    assert found["verdict"] == "bad"
    assert "does not exist" in found["seen"]
    assert "createdb" in found["seen"]


@pytest.mark.parametrize(
    ("folder", "ports", "says"),
    [
        ("my plant", (), "holds ' ', which systemd and compose.yaml read otherwise"),
        ("100%", (), "holds '%'"),
        ("p", ("--port", "fleet=9000", "--port", "broker=9000"), "cannot both have port 9000"),
    ],
)
def test_what_units_would_misread_or_two_services_would_share_is_refused(
    folder: str, ports: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = init_plant(tmp_path / folder, "--host", "localhost", *ports)
    assert done.returncode in {1, 2}
    assert says in done.stderr
    assert not (tmp_path / folder).exists()


def test_a_kill_between_a_new_certificate_and_its_key_is_mended_by_making_the_plant_again(
    made_plant: Plant, tmp_path: Path
) -> None:
    plant = copy_of(made_plant, tmp_path / "plant")
    plant.certificate("fleet").write_bytes(plant.certificate("broker").read_bytes())
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context().load_cert_chain(plant.certificate("fleet"), plant.key("fleet"))
    assert init_plant(plant.folder).returncode == 0
    ssl.create_default_context().load_cert_chain(plant.certificate("fleet"), plant.key("fleet"))


def test_of_two_who_make_a_plant_at_once_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "plant"
    folder.mkdir()
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = init_plant(folder, "--host", "localhost")
    finally:
        os.close(held)
    assert done.returncode in {1, 2}
    assert "somebody else is making" in done.stderr
    assert not list(folder.iterdir())
