"""The example overlay and the base of every plant's: valid, with no secret in it, and every process as small and as shut in as it can be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from free_ports import free_port

from aggregator.settings import load_aggregator_settings
from fleet.broker_door.broker_files import BrokerPlaces, configuration
from fleet.settings import load_fleet_settings

FOLDER = Path(__file__).resolve().parents[2] / "deploy/kubernetes"
BASE = FOLDER.parents[1] / "fleet/plant/kubernetes_base"
EXAMPLE = FOLDER / "overlays/example"
WORKLOADS = ("Deployment", "StatefulSet")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example overlay as `kubectl kustomize` makes it; without kubectl the files as they stand, patches left out."""
    path = tmp_path_factory.mktemp("kubernetes") / "all.yaml"
    if (kubectl := shutil.which("kubectl")) is not None:
        done = subprocess.run([kubectl, "kustomize", EXAMPLE], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        path.write_text(done.stdout)
        return path
    found: list[str] = []

    def collect(folder: Path) -> None:
        for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
            target = folder / name
            if target.is_dir():
                collect(target)
            else:
                found.append(target.read_text())

    collect(EXAMPLE)
    path.write_text("\n---\n".join(found))
    return path


@pytest.fixture(scope="module")
def documents(manifest: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(manifest.read_text()) if one]


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for one in documents:
        if one["kind"] in WORKLOADS:
            yield one["metadata"]["name"], one["spec"]["template"]


def test_every_document_is_valid_and_has_no_key_that_kubernetes_does_not_know(manifest: Path) -> None:
    program = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([program, "--strict", manifest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = manifest.with_name("wrong.yaml")
    wrong.write_text(manifest.read_text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    done = subprocess.run([program, "--strict", wrong], capture_output=True, text=True, check=False)
    assert done.returncode != 0, "strict"


def test_no_secret_is_in_the_repository_only_the_names_of_some(documents: list[Document]) -> None:
    assert "Secret" not in {one["kind"] for one in documents}
    for name, pod in pods(documents):
        for box in pod["spec"]["containers"]:
            for variable in box.get("env", []):
                if any(word in variable["name"] for word in ("URL", "KEY", "TOKEN")):
                    assert "value" not in variable, f"{name}: {variable['name']}"
    assert "PRIVATE KEY" not in "".join(
        p.read_text() for at in (FOLDER, BASE) for p in at.rglob("*") if p.is_file()
    )


def test_every_process_runs_as_nobody_special_on_a_root_it_cannot_write_and_is_watched_and_bounded(
    documents: list[Document],
) -> None:
    found = dict(pods(documents))
    assert found.keys() == {"fleet", "aggregator", "broker", "postgresql"}
    for name, pod in found.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for box in [*spec["containers"], *spec.get("initContainers", [])]:
            context = box["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert box["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in box["resources"]["limits"], name
        for box in spec["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= box.keys(), name
            mounted = {mount["name"] for mount in box["volumeMounts"]}
            claimed = {volume["name"] for volume in spec["volumes"]} | (
                {"data"} if name in {"broker", "postgresql"} else set()
            )
            assert mounted == claimed, name


def test_a_fleet_of_two_is_never_drained_whole_and_each_is_reached_by_whom_it_serves_alone(
    documents: list[Document],
) -> None:
    by = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert by["Deployment", "fleet"]["spec"]["replicas"] == 2
    assert by["PodDisruptionBudget", "fleet"]["spec"]["minAvailable"] == 1
    assert by["PersistentVolumeClaim", "fleet-data"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert by["NetworkPolicy", "nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, pod in pods(documents):
        policy = by["NetworkPolicy", name]["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = {port["containerPort"] for box in pod["spec"]["containers"] for port in box["ports"]}
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    callers = {
        port["port"]: [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule["from"]]
        for name in ("broker", "postgresql")
        for rule in by["NetworkPolicy", name]["spec"]["ingress"]
        if "from" in rule
        for port in rule["ports"]
    }
    assert callers == {8884: ["fleet"], 5432: ["fleet"]}


def test_the_settings_of_the_example_are_such_as_the_programs_take() -> None:
    url = {"FEDGE_FLEET_SERVICE_DATABASE_URL": "postgresql+psycopg://fedge:x@postgresql/fedge"}
    fleet = load_fleet_settings(EXAMPLE / "fleet.toml", url)
    assert fleet.mqtt is not None
    assert fleet.mqtt.shared
    load_aggregator_settings(EXAMPLE / "aggregator.toml", {})
    assert tomllib.loads((EXAMPLE / "fleet.toml").read_text())["tenant"] == "acme"


def test_the_brokers_settings_and_the_file_beside_them_are_what_mosquitto_takes(
    documents: list[Document], tmp_path: Path
) -> None:
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed: sudo apt-get install mosquitto")
    (settings,) = (one for one in documents if one["metadata"]["name"] == "broker-settings")
    places = BrokerPlaces(listen=str(free_port()), services=str(free_port()), folder=tmp_path)
    (tmp_path / "fedge.conf").write_text(configuration(places))
    said = settings["data"]["mosquitto.conf"].replace("/mosquitto/fedge", str(tmp_path))
    (tmp_path / "settings").write_text(said.replace("/mosquitto/data/", f"{tmp_path}/"))
    done = subprocess.run(
        [mosquitto, "-c", tmp_path / "settings"], capture_output=True, text=True, check=False, timeout=60
    )
    # the certificates are not there: it has read every line by then
    assert "Unknown configuration variable" not in done.stderr
    assert done.returncode != 0
