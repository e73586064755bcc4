"""Metrics, rules and the Grafana dashboard: every name is served, of the type it is used as, and the real programs take them.

The last test has a real Prometheus scrape a real fleet and a real Alertmanager tell a receiver.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from fleet_world import fleet_process
from free_ports import free_port
from prometheus_client import CollectorRegistry, generate_latest
from test_outages import settle
from waiting import died, wait_until

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.run_store import RunStore
from aggregator.run_metrics import open_registry
from fleet.metrics import FleetMetrics
from service.application import create_application

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "fedge.rules.yml"
PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/bin"
_NAME: Final = re.compile(r"\b(?:fedge|process)_[a-z0-9_]+\b")
_WINDOWED: Final = re.compile(r"\b(rate|increase|irate)\(\s*([a-z0-9_]+)")
_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CollectorRegistry]]:
    """What the two services serve, with what every service serves."""
    folder = tmp_path_factory.mktemp("registries")
    accounts = PrivacyAccounts(folder / "ledger", {}, now=time.time)
    store = RunStore(folder / "runs.sqlite")
    found = [FleetMetrics().registry, open_registry(store, accounts, lambda: True)]
    for registry in found:
        create_application(
            title="test",
            tokens=None,  # type: ignore[arg-type] # nobody asks
            registry=registry,
            statuses={},
            largest_body=lambda *_: 0,
        )
    yield found
    accounts.close()
    store.close()


@pytest.fixture(scope="module")
def served(registries: list[CollectorRegistry]) -> dict[str, str]:
    """Every name that a query may use, and its type."""
    names = {}
    for registry in registries:
        for metric in registry.collect():
            for suffix in _SUFFIXES[metric.type]:
                names[metric.name + suffix] = metric.type
    # shown by a listener that has a certificate
    return names | {"fedge_certificate_days_left": "gauge"}


def expressions() -> dict[str, str]:
    """Every query of rules and dashboard, by where it stands."""
    rules = yaml.safe_load(RULES.read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    board = json.loads((DEPLOY / "grafana" / "fedge.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


@pytest.mark.parametrize("place", expressions())
def test_every_name_of_a_query_is_served_and_of_the_type_it_is_used_as(
    place: str, served: dict[str, str]
) -> None:
    text = expressions()[place]
    # a pattern of names stands for those it matches
    for pattern in re.findall(r'__name__=~"([^"]+)"', text):
        assert [name for name in served if re.fullmatch(pattern, name)], pattern
        text = text.replace(pattern, "")
    names = _NAME.findall(text)
    assert [name for name in names if name not in served] == []
    for function, name in _WINDOWED.findall(text):
        assert served[name] != "gauge", f"{function} of a gauge: {name}"
    for name in re.findall(r"delta\(\s*([a-z0-9_]+)", text):
        assert served[name] == "gauge"


def test_names_and_types_are_as_prometheus_wants_them(registries: list[CollectorRegistry]) -> None:
    for registry in registries:
        done = promtool("check", "metrics", stdin=generate_latest(registry).decode())
        assert done.returncode == 0, done.stdout + done.stderr


def test_documents_name_only_metrics_that_are_served(served: dict[str, str]) -> None:
    named = {
        (page.name, name)
        for page in DEPLOY.parent.glob("docs/*.md")
        for name in re.findall(
            r"\bfedge_(?:fleet|training|privacy|http|aggregator|certificate)_[a-z_]+\b", page.read_text()
        )
    }
    # of a histogram people read the name, and queries its buckets
    known = served.keys() | {name.removesuffix("_bucket") for name in served}
    assert {(page, name) for page, name in named if name not in known} == set()


def test_every_alert_says_what_is_the_matter_and_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert {"summary", "action"} == rule["annotations"].keys()


def test_prometheus_takes_rules_and_settings_and_the_alerts_fire_when_they_shall(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", folder)
    for name in ("fleet.token", "aggregator.token", "ca.pem"):
        (folder / name).touch()
    cases = Path(__file__).parent / "fedge.rules.test.yml"
    shutil.copy(cases, folder)
    for asked in (
        ("check", "rules", "fedge.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", cases.name),
    ):
        done = promtool(*asked, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    amtool = shutil.which("amtool", path=PATH) or "amtool"
    done = subprocess.run(
        [amtool, "check-config", folder / "alertmanager.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_real_prometheus_scrapes_a_fleet_and_a_real_alertmanager_tells_of_it(tmp_path: Path) -> None:
    config, headers = settle(tmp_path, f"sqlite:///{tmp_path}/data/fleet.sqlite")
    with ExitStack() as stack:
        told = stack.enter_context(receiver())
        _, url = stack.enter_context(fleet_process(config, tmp_path / "fleet.log"))
        (tmp_path / "fleet.token").write_text(headers["Authorization"].partition(" ")[2])
        manager = free_port()
        settings = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yml").read_text())
        settings["receivers"][0]["webhook_configs"][0]["url"] = told.url
        settings["route"] |= {"group_wait": "0s"}
        settings["route"]["routes"][0]["group_wait"] = "0s"
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(settings))
        stack.enter_context(
            program(
                tmp_path / "alertmanager.log",
                "prometheus-alertmanager",
                f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/alertmanager",
                f"--web.listen-address=127.0.0.1:{manager}",
                "--cluster.listen-address=",
            )
        )
        rules = yaml.safe_load(RULES.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)  # what lasts two minutes in a plant
        (tmp_path / "fedge.rules.yml").write_text(yaml.safe_dump(rules))
        scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        scraped["global"] = {
            "scrape_interval": "500ms",
            "evaluation_interval": "500ms",
            "scrape_timeout": "500ms",
        }
        scraped["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{manager}"]
        (job,) = (one for one in scraped["scrape_configs"] if one["job_name"] == "fedge-fleet")
        del job["tls_config"]
        job |= {"scheme": "http", "static_configs": [{"targets": [url.removeprefix("http://")]}]}
        scraped["scrape_configs"] = [job]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scraped))
        port = free_port()
        stack.enter_context(
            program(
                tmp_path / "prometheus.log",
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/prometheus",
                f"--web.listen-address=127.0.0.1:{port}",
            )
        )
        wait_until(lambda: "FedgeBrokerAway" in told.firing(), "the missing broker to be told")
        alert = told.firing()["FedgeBrokerAway"]
        assert "fedge-fleet" in alert["annotations"]["summary"]
        up = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": "up"}).json()
        assert [one["value"][1] for one in up["data"]["result"]] == ["1"]
        assert "FedgeServiceDown" not in told.firing()


def promtool(
    *asked: str, cwd: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool", path=PATH) or "promtool"
    return subprocess.run([tool, *asked], cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


@contextmanager
def program(log: Path, name: str, *arguments: str) -> Iterator[None]:
    """A program of Prometheus', to its end."""
    path = shutil.which(name, path=PATH) or name
    with log.open("wb") as out:
        child = subprocess.Popen([path, *arguments], stdout=out, stderr=out)
        try:
            if (over := died(child, log)) is not None:
                raise AssertionError(over)
            yield
        finally:
            child.terminate()
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class _Told(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/alerts"

    def firing(self) -> dict[str, dict[str, Any]]:
        return {one["labels"]["alertname"]: one for one in list(self.alerts) if one["status"] == "firing"}


class _Handler(BaseHTTPRequestHandler):
    server: _Told

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.alerts.extend(body["alerts"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiver() -> Iterator[_Told]:
    """Where Alertmanager tells."""
    with _Told() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
