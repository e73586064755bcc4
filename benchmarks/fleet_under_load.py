"""What one fleet service does for ten thousand connected devices on this machine. Prints one JSON object a figure.

``python benchmarks/fleet_under_load.py [--devices 10000] [--database sqlite|postgresql] [--events-per-s 6000] [--seconds 30]
[--ingest-alone | --preview-alone]``

Everything is real but the inside of the devices (`simulations.hollow`): Mosquitto over mutual TLS with the fleet's own files, the
service as a process of its own, SQLite or a PostgreSQL server that keeps what it commits, enrolment, seals. In this order:

* ``connected``: devices with a session, all of them enrolled over HTTPS before;
* ``notice p95``: from the decision to give a device a release until it has checked and obeyed its desired state; a group is given in
  slices. ``dispatch``: from the start of a rollout in one group until all of them have;
* ``rollback``: from the request until 95 % of the devices run again what they ran before (an installation takes them 1 s);
* ``ingest``: events that devices were told to forget a second; of one in ten of these words the seal is checked. Offered are a few
  more than are asked for.
  Beside it how many of the cores each program used: the devices' own part a fleet in the field does not pay;
* ``API p95``: lists of devices, anomalies and the rollout while 1,000 events a second come;
* ``preview``: of a rollout to 100,000 devices in the database: of a plan without gates, and of the default plan, whose power is
  reckoned from six hours of health of each;
* ``service``: its largest proportional share of memory (PSS) from the first device to here;
* ``lost``, ``doubled``: the devices' accounts against the database, both 0.

`ratio` is value ÷ bound. The load beside each figure is part of it: the devices and the broker run on the same cores.
`--ingest-alone` leaves everything out but the ingest, `--preview-alone` all but the preview. `--small` goes the whole way in seconds, for a look at whether it works; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fleet")]

from databases import LASTING, PostgresqlServer  # noqa: E402 - needs the path above
from process_use import Cores, Memory  # noqa: E402 - lies beside this one
from recorded_devices import add_recorded  # noqa: E402 - as above

from fleet.storage.base import open_database  # noqa: E402 - as above
from fleet.storage.device_tables import Desired  # noqa: E402 - as above
from simulations.hollow.accounts import settle_accounts  # noqa: E402 - as above
from simulations.hollow.assembly import Plan, make_crowd  # noqa: E402 - as above
from simulations.hollow.beside import AtWork, at_work  # noqa: E402 - as above
from simulations.hollow.crowd import Pace  # noqa: E402 - as above
from simulations.hollow.ledger import Notice, percentile  # noqa: E402 - as above
from simulations.hollow.own_fleet import FAMILY, OwnFleet  # noqa: E402 - as above
from simulations.hollow.playing import allow_connections  # noqa: E402 - as above
from simulations.patience import Patience  # noqa: E402 - as above
from simulations.processes import Supervisor  # noqa: E402 - as above

PATIENCE_S = 600.0
API_EVENTS_PER_S = 1000.0

CHECKED_ACKS = 0.1
"""Of acknowledgements, whose seals the devices check here: in a field each has a core of its own for that."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and with how many."""

    devices: int
    database: str
    events_per_s: float
    seconds: float
    records: int
    is_ingest_alone: bool = False
    is_preview_alone: bool = False


class Report:
    """Prints figures as they come."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def tell(
        self, name: str, value: float, unit: str, bound: float | None = None, *, more_is_better: bool = False
    ) -> None:
        """One figure with the load of the machine; `bound` is what is asked for, None: nothing is."""
        figure: dict[str, Any] = {"name": name, "value": round(value, 3), "unit": unit, "bound": bound}
        if bound is not None:
            figure["ratio"] = round(value / bound, 3) if bound else None
            figure["holds"] = value >= bound if more_is_better else value <= bound
        machine = {
            "devices": self._options.devices,
            "database": self._options.database,
            "cpus": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(figure | machine), flush=True)


def programs(own: OwnFleet, server: PostgresqlServer | None) -> dict[str, int]:
    """By what they are the ids of all processes that are started here, this one with its devices among them."""
    running = {name: one.pid for name, one in own.supervisor.processes.items() if one.pid is not None}
    others = {"devices": os.getpid()}
    if server is not None and server.pid is not None:
        others["database"] = server.pid
    return running | others


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one fleet service under ten thousand devices")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--events-per-s", type=float, default=6000.0, help="offered, for the ingest")
    parser.add_argument("--seconds", type=float, default=30.0, help="of ingest, and of questions to the API")
    parser.add_argument(
        "--records", type=int, default=100_000, help="devices in the database for the preview"
    )
    parser.add_argument("--ingest-alone", action="store_true", help="no rollouts, no API, no preview")
    parser.add_argument(
        "--preview-alone", action="store_true", help="nothing else, beside twenty devices at rest"
    )
    parser.add_argument("--small", action="store_true", help="20 devices, a few seconds")
    given = parser.parse_args()
    options = Options(
        devices=20 if given.small or given.preview_alone else given.devices,
        database=given.database,
        events_per_s=100.0 if given.small else given.events_per_s,
        seconds=3.0 if given.small else given.seconds,
        records=1000 if given.small else given.records,
        is_ingest_alone=given.ingest_alone,
        is_preview_alone=given.preview_alone,
    )
    allow_connections(options.devices)
    with (
        tempfile.TemporaryDirectory(prefix="fedge-bench-") as name,
        database(options.database) as (url, server),
    ):
        home = Path(name)
        with Supervisor(home / "logs") as supervisor:
            own = OwnFleet(home, supervisor, database_url=url)
            own.start()
            measure(own, home, options, Report(options), Cores(programs(own, server)))


def measure(own: OwnFleet, home: Path, options: Options, report: Report, cores: Cores) -> None:
    pid = own.supervisor.processes["fleet"].pid
    assert pid is not None
    memory = Memory(pid)
    began = time.monotonic()
    plan = Plan(devices=options.devices, pace=Pace(health_s=30.0, install_s=1.0), checked_acks=CHECKED_ACKS)
    crowd = make_crowd(
        plan, own.place, home, lambda count: own.site.claims(FAMILY, "bench", count), lambda *_: None
    )
    report.tell("enrolment", 60 * options.devices / (time.monotonic() - began), "devices/min")
    with at_work(crowd) as work, own.client() as api:
        began = time.monotonic()
        wait(lambda: crowd.connected == options.devices, "all devices to connect")
        report.tell("connecting", time.monotonic() - began, "s")
        report.tell("connected", crowd.connected, "devices", options.devices, more_is_better=True)
        rest(work)
        if options.is_ingest_alone:
            measure_ingest(work, report, options, cores)
        elif options.is_preview_alone:
            measure_preview(own, api, report, options)
        else:
            measure_everything(work, own, api, report, options, cores)
        report.tell("service memory", memory.stop(), "MB PSS", 400.0)
        is_settled = work.settle(Patience(PATIENCE_S).is_used_up)
    report.tell("not acknowledged in the end", crowd.ledger.waiting, "events", 0)
    with closing(open_database(own.database_url)) as stored:
        accounts = settle_accounts(stored, crowd.devices)
    report.tell("acknowledged in all", accounts.acknowledged, "events")
    report.tell("lost", accounts.missing, "events", 0)
    report.tell("doubled or made up", accounts.doubled + accounts.strange, "events", 0)
    report.tell("words without the fleet's seal", crowd.ledger.forged, "messages", 0)
    if not accounts.are_right or not is_settled:
        raise SystemExit("the accounts are wrong")


def measure_everything(
    work: AtWork, own: OwnFleet, api: httpx.Client, report: Report, options: Options, cores: Cores
) -> None:
    measure_rollout(work, api, report, 1, options, database_url=own.database_url)
    # its soak is not over when it is rolled back
    rollout = measure_rollout(work, api, report, 2, options, database_url=own.database_url, soak_s=3600.0)
    measure_rollback(work, api, report, rollout)
    rest(work)
    measure_ingest(work, report, options, cores)
    rest(work)
    measure_api(work, own, report, rollout, options)
    rest(work)
    measure_preview(own, api, report, options)


def measure_rollout(
    work: AtWork,
    api: httpx.Client,
    report: Report,
    version: int,
    options: Options,
    *,
    database_url: str,
    soak_s: float = 0.0,
) -> str:
    ledger, release = work.crowd.ledger, f"{FAMILY}/{version}"
    groups = [{"percentage": 100, "soak_s": soak_s}]
    plan = {"name": release, "release": release, "groups": groups, "gates": None}
    rollout = str(asked(api.post("/v1/rollouts", json=plan))["id"])
    began = time.time()
    asked(api.post(f"/v1/rollouts/{rollout}:start"))
    report.tell(f"start of {release} answered", time.time() - began, "s")
    wait(lambda: len(of(ledger.notices, release)) >= options.devices, f"{release} to reach every device")
    after = [notice.at - began for notice in of(ledger.notices, release)]
    with closing(open_database(database_url)) as stored, stored.read() as session:
        rows = session.execute(select(Desired.device, Desired.set_at).where(Desired.release == release))
        given = dict(rows.all())
    waited = [notice.at - given[notice.device] for notice in of(ledger.notices, release)]
    report.tell(f"notice of {release} p50", percentile(waited, 0.5), "s")
    report.tell(f"notice of {release} p95", percentile(waited, 0.95), "s", 2.0)
    # the most that can be claimed is bounded by how many there are: the last one counts
    report.tell(
        f"dispatch of {release}",
        60 * options.devices / max(after),
        "devices/min",
        10_000,
        more_is_better=True,
    )
    wait(lambda: len(of(ledger.installed, release)) >= options.devices, f"{release} to run everywhere")
    report.tell(f"{release} runs everywhere", time.time() - began, "s")
    if not soak_s:
        wait(lambda: state(api, rollout) == "COMPLETED", f"the rollout of {release} to complete")
        report.tell(f"rollout of {release} completed", time.time() - began, "s")
    return rollout


def measure_rollback(work: AtWork, api: httpx.Client, report: Report, rollout: str) -> None:
    crowd, release = work.crowd, f"{FAMILY}/1"
    earlier = len(of(crowd.ledger.installed, release))
    began = time.time()
    asked(api.post(f"/v1/rollouts/{rollout}:rollback", json={"confirm": rollout}))
    wanted = int(0.95 * len(crowd.devices))
    wait(lambda: len(of(crowd.ledger.installed, release)) - earlier >= wanted, "95 % to be back")
    report.tell(
        "rollback of 95 %", of(crowd.ledger.installed, release)[earlier + wanted - 1].at - began, "s", 60.0
    )
    wait(lambda: state(api, rollout) == "ROLLED_BACK", "the rollback to end")
    report.tell("rollback ended", time.time() - began, "s")


def measure_ingest(work: AtWork, report: Report, options: Options, cores: Cores) -> None:
    crowd, ledger = work.crowd, work.crowd.ledger
    crowd.pace.events_per_s = options.events_per_s
    time.sleep(min(5.0, options.seconds))
    acked, sent, resent, since = ledger.acked, ledger.total, ledger.resent, time.monotonic()
    first = len(ledger.ack_s)
    ledger.behind_s = 0.0
    before = cores.used_s()
    time.sleep(options.seconds)
    seconds, after = time.monotonic() - since, cores.used_s()
    report.tell("ingest offered", (ledger.total - sent) / seconds, "events/s")
    report.tell(
        "ingest acknowledged", (ledger.acked - acked) / seconds, "events/s", 5000, more_is_better=True
    )
    report.tell("ingest acknowledgement p95", percentile(ledger.ack_s[first:], 0.95), "s")
    report.tell("ingest resent", (ledger.resent - resent) / seconds, "events/s")
    report.tell("devices behind at worst", ledger.behind_s, "s")
    for program, used_s in after.items():
        report.tell(f"ingest, cores used by {program}", (used_s - before[program]) / seconds, "cores")
    crowd.pace.events_per_s = 0.0


def measure_api(work: AtWork, own: OwnFleet, report: Report, rollout: str, options: Options) -> None:
    work.crowd.pace.events_per_s = min(API_EVENTS_PER_S, options.events_per_s)
    time.sleep(min(5.0, options.seconds))
    site = own.site
    asking = [sys.executable, str(ROOT / "benchmarks" / "fleet_questions.py")]
    asking += [
        "--url",
        own.url,
        "--ca",
        str(site.plant.ca),
        "--token-file",
        str(site.plant.admin_token),
    ]
    asking += ["--rollout", rollout, "--seconds", str(options.seconds)]
    said = subprocess.run(asking, check=True, capture_output=True, text=True).stdout
    for path, latencies in json.loads(said).items():
        report.tell(f"API p95 of {path}", 1000 * percentile(latencies, 0.95), "ms", 100.0)
    work.crowd.pace.events_per_s = 0.0


def measure_preview(own: OwnFleet, api: httpx.Client, report: Report, options: Options) -> None:
    add_recorded(own.database_url, options.records - options.devices)
    for name, part in (
        ("preview without gates", {"groups": [{"percentage": 100}], "gates": None}),
        ("preview of the default plan", {}),
    ):
        plan = {"name": "preview", "release": f"{FAMILY}/1"} | part
        took = []
        for _ in range(5):
            began = time.monotonic()
            found = asked(api.post("/v1/rollouts:preview", json=plan))
            took.append(time.monotonic() - began)
        report.tell(f"{name} reaches", found["devices"], "devices")
        report.tell(f"{name} foretells", len(found["power"]["lines"]), "harms")
        report.tell(f"{name}, slowest of five", max(took), "s", 1.0)


def of(notices: list[Notice], release: str) -> list[Notice]:
    return [notice for notice in notices if notice.release == release]


def state(api: httpx.Client, rollout: str) -> str:
    time.sleep(0.4)
    return str(asked(api.get(f"/v1/rollouts/{rollout}"))["state"])


def asked(response: httpx.Response) -> Mapping[str, Any]:
    if response.status_code >= 300:
        raise SystemExit(f"the fleet refuses {response.request.url.path}: {response.text[:500]}")
    answer: Mapping[str, Any] = response.json()
    return answer


def rest(work: AtWork) -> None:
    """Until nothing waits but what is said all the time."""
    patience = Patience(PATIENCE_S)
    while work.crowd.ledger.waiting > len(work.crowd.devices) // 10 and not patience.is_used_up():
        time.sleep(0.2)


def wait(ready: Callable[[], bool], what: str) -> None:
    patience = Patience(PATIENCE_S)
    while not ready():
        if patience.is_used_up():
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


@contextmanager
def database(kind: str) -> Iterator[tuple[str | None, PostgresqlServer | None]]:
    """The URL of an empty database and its server; None: SQLite where the fleet puts it."""
    if kind == "sqlite":
        yield None, None
        return
    server = PostgresqlServer({**LASTING, "autovacuum": "on", "shared_buffers": "256MB"})
    try:
        server.start()
        server.run("CREATE DATABASE bench")
        yield f"postgresql+psycopg://fedge@/bench?host={server.folder}", server
    finally:
        server.remove()


if __name__ == "__main__":
    main()
