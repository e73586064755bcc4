"""What a fleet with a past gives to other programs: the event log, files, a Kafka cluster, an MLflow server."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Producer
from dashboard_site import DashboardSite
from free_ports import free_port
from mosquitto_broker import LocalCertificates
from secret_file import secret_file
from waiting import died, wait_until

from fleet.bridges.kafka import KafkaBridge
from fleet.bridges.loop import carry
from fleet.bridges.place import Place
from fleet.bridges.port import BridgeError
from fleet.client.client import FleetClient
from runtime.errors import SettingsError
from service.errors import ClientError
from service.roles import Role

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def token(seeded: DashboardSite) -> Path:
    return secret_file(seeded.folder / "viewer.token", seeded.tokens[Role.VIEWER])


@pytest.fixture
def client(seeded: DashboardSite, certificates: LocalCertificates, token: Path) -> Iterator[FleetClient]:
    with FleetClient.open(seeded.url, certificates.ca_file, token) as client:
        yield client


def log(client: FleetClient, size: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after = None
    while True:
        page = client.get("/v1/event-log", {"after": after, "limit": size})
        events += page["items"]
        after = page["next_cursor"]
        if not page["more"]:
            return events


def test_the_event_log_has_each_event_once_however_it_is_read(client: FleetClient) -> None:
    whole = log(client, 1000)
    assert log(client, 7) == whole
    assert len({event["id"] for event in whole}) == len(whole)
    assert {event["kind"] for event in whole} == {"anomaly", "anomaly_end", "drift", "install"}
    counted = sum(1 for _ in client.pages("/v1/anomalies", {}, 1 << 40))
    assert sum(event["kind"] == "anomaly" for event in whole) == counted
    at_its_end = client.get("/v1/event-log", {"limit": 1000})["next_cursor"]
    nothing = client.get("/v1/event-log", {"after": at_its_end})
    assert nothing == {"items": [], "next_cursor": at_its_end, "more": False}


@pytest.mark.parametrize(
    "cursor", ["bm9uZQ", "YTEuZTEuZDE", "%00", "YTk5OTk5OTk5OTk5OTk5OTk5OTk5OS5lMC5kMC5pMA"]
)
def test_a_place_that_nobody_gave_out_is_refused(client: FleetClient, cursor: str) -> None:
    with pytest.raises(ClientError, match="422"):
        client.get("/v1/event-log", {"after": cursor})


def command(
    seeded: DashboardSite, certificates: LocalCertificates, token: Path, *words: str, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FEDGE_FLEET_URL": seeded.url,
        "FEDGE_FLEET_CA": str(certificates.ca_file),
        "FEDGE_FLEET_TOKEN_FILE": str(token),
    }
    return subprocess.run(
        [sys.executable, "-m", "fleet", *words],
        env=environment | more,
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_is_exported_in_each_format_and_means_the_same(
    seeded: DashboardSite, certificates: LocalCertificates, token: Path, client: FleetClient, tmp_path: Path
) -> None:
    for file_format in ("csv", "parquet", "jsonl"):
        done = command(
            seeded, certificates, token, "export", "all", "--out", str(tmp_path), "--format", file_format
        )
        assert done.returncode == 0, done.stderr
        assert "audit: left out" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "anomalies.jsonl").open()]
    assert lines == list(client.pages("/v1/anomalies", {}, 1 << 40))
    with (tmp_path / "anomalies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "anomalies.parquet").to_pylist()
    assert [float(row["score"]) for row in rows] == [line["score"] for line in lines]
    assert [row["score"] for row in table] == [line["score"] for line in lines]
    assert [json.loads(row["contributors"]) for row in table] == [line["contributors"] for line in lines]
    for name in ("devices", "verdicts", "drift", "events", "releases", "rollouts", "executions", "timelines"):
        assert pq.read_table(tmp_path / f"{name}.parquet").num_rows > 0, name
    cells = [cell for name in ("devices", "dead-letters") for cell in _cells(tmp_path / f"{name}.csv")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], "no cell is a formula"
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


def _cells(path: Path) -> Iterator[str]:
    with path.open(newline="") as file:
        for row in csv.reader(file):
            yield from row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "secrets", "--out", "x"], "there is nothing called 'secrets'"),
        (["export", "devices", "--out", "x", "--format", "xls"], "valid: csv, parquet, jsonl"),
        (["export", "audit", "--out", "x"], "(403)"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_no_file(
    seeded: DashboardSite,
    certificates: LocalCertificates,
    token: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
) -> None:
    words = [str(tmp_path / "x") if word == "x" else word for word in words]
    done = command(seeded, certificates, token, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture
def cluster() -> Iterator[Producer]:
    """librdkafka's mock cluster of three brokers, inside this producer."""
    producer = Producer(
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 3, "enable.idempotence": True, "acks": "all"}
    )
    yield producer
    producer.purge()


def consumed(cluster: Producer, topic: str, count: int) -> list[Any]:
    brokers = cluster.list_topics(timeout=30).brokers.values()
    consumer = Consumer(
        {
            "bootstrap.servers": ",".join(f"{one.host}:{one.port}" for one in brokers),
            "group.id": "test",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found: list[Any] = []

    def all_there() -> bool:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message)
        return len(found) >= count

    try:
        wait_until(all_there, "the events in Kafka")
    finally:
        consumer.close()
    return found


def test_every_event_is_in_kafka_under_its_device_and_in_its_order(
    client: FleetClient, cluster: Producer, tmp_path: Path
) -> None:
    whole = log(client, 1000)
    made = KafkaBridge(client, cluster, Place(tmp_path / "place", "kafka"), topic="events", source="demo")
    assert carry(made, once=True, every_s=0, sleep=lambda _s: None, told=lambda _n: None) == len(whole)
    messages = consumed(cluster, "events", len(whole))
    told = [json.loads(message.value()) for message in messages]
    assert {one["id"] for one in told} == {event["id"] for event in whole}
    for device in {event["device"] for event in whole}:
        mine = [json.loads(one.value())["id"] for one in messages if one.key() == device.encode()]
        assert mine == [event["id"] for event in whole if event["device"] == device]
    assert dict(messages[0].headers())["content-type"].startswith(b"application/cloudevents+json")
    # another process goes on where this one was
    again = KafkaBridge(client, cluster, Place(tmp_path / "place", "kafka"), topic="events", source="demo")
    assert again.step() == 0


def test_what_kafka_does_not_take_is_not_noted_and_is_carried_later(
    client: FleetClient, cluster: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Producer(
        {"bootstrap.servers": f"127.0.0.1:{free_port()}", "message.timeout.ms": 300, "log_level": 0}
    )
    place = Place(tmp_path / "place", "kafka")
    made = KafkaBridge(client, gone, place, topic="events", source="demo")
    with pytest.raises(BridgeError, match="is the cluster there"):
        made.step()
    assert place.get("after") is None
    pauses: list[float] = []

    def back(seconds: float) -> None:
        pauses.append(seconds)
        monkeypatch.setattr(made, "_producer", cluster)
        if len(pauses) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry(made, once=False, every_s=9.0, sleep=back, told=lambda _n: None)
    assert pauses[-1] == 9.0, "it went on, and then there was nothing new"
    assert place.get("after") is not None


def test_a_place_is_of_one_bridge(tmp_path: Path) -> None:
    Place(tmp_path / "place", "kafka").note(after="x")
    for wrong in ("mlflow", None):
        if wrong is None:
            (tmp_path / "place").write_bytes(b"not JSON")
        with pytest.raises(SettingsError, match="is not the place of a bridge"):
            Place(tmp_path / "place", wrong or "kafka")


@pytest.mark.long
def test_runs_releases_and_aliases_are_in_a_real_mlflow_server_and_once(
    seeded: DashboardSite, certificates: LocalCertificates, token: Path, tmp_path: Path
) -> None:
    """In an environment of its own (``make .venv-mlflow/.ready-mlflow``): MLflow brings what no part of ours needs."""
    python = ROOT / ".venv-mlflow" / "bin" / "python"
    subprocess.run(["make", "-s", ".venv-mlflow/.ready-mlflow"], cwd=ROOT, check=True)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = [
        python,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.sqlite",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]  # fmt: skip - a command
    settings = (seeded.folder / "fleet.toml").read_text()
    aggregator = {
        f"FEDGE_AGGREGATOR_{name}": settings.partition(f'{key} = "')[2].partition('"')[0]
        for name, key in (("URL", "[aggregator]\nurl"), ("CA", "ca_file"), ("TOKEN_FILE", "token_file"))
    }
    logged = tmp_path / "mlflow.log"
    with logged.open("wb") as out:
        child = subprocess.Popen(server, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: _answers(f"{uri}/health"), "MLflow", unless=lambda: died(child, logged))
        environment = (
            os.environ
            | aggregator
            | {
                "FEDGE_FLEET_URL": seeded.url,
                "FEDGE_FLEET_CA": str(certificates.ca_file),
                "FEDGE_FLEET_TOKEN_FILE": str(token),
                "PYTHONPATH": str(ROOT),
            }
        )
        words = [
            python,
            "-m",
            "fleet",
            "bridge",
            "mlflow",
            "--uri",
            uri,
            "--place",
            str(tmp_path / "place"),
            "--once",
        ]
        told = []
        for _ in range(3):  # again; and by one who has lost its place
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr + done.stdout
            look = subprocess.run([python, "-c", LOOK, uri], capture_output=True, text=True, check=True)
            told.append(json.loads(look.stdout))
            if len(told) == 2:
                (tmp_path / "place").unlink()
    finally:
        os.killpg(child.pid, 15)
        child.wait()
    assert told[0] == told[1] == told[2]
    runs, models = told[0]["runs"], told[0]["models"]
    assert "run-motor-refused" in runs
    assert runs["run-motor-refused"]["state"] == "REJECTED_BY_GATE"
    assert models["fedge.motor"]["aliases"]["champion"] == "motor/2"
    assert all(one["bundle"] > 0 for model in models.values() for one in model["versions"].values())


LOOK = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1], sys.argv[1])
runs, models = {}, {}
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        runs[run.info.run_name] = {"state": run.data.tags.get("fedge.state"), "metrics": len(run.data.metrics)}
for model in client.search_registered_models():
    versions = {v.tags["fedge.release"]: v for v in client.search_model_versions(f"name = '{model.name}'")}
    models[model.name] = {
        "versions": {name: {"bundle": sum(f.file_size or 0 for f in client.list_artifacts(v.run_id, "bundle"))} for name, v in versions.items()},
        "aliases": {alias: next(n for n, v in versions.items() if v.version == number) for alias, number in model.aliases.items()},
    }
print(json.dumps({"runs": runs, "models": models}, sort_keys=True))
"""


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False
