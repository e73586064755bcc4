"""What the dashboard costs, and how soon it is there, while a fleet is at work. Prints one JSON object a figure.

``python benchmarks/dashboard.py [--devices 1000] [--records 10000] [--events-per-s 1000] [--seconds 30]``

Everything is real but the inside of the devices (`simulations.hollow`): Mosquitto over mutual TLS, the service as a process of its own
with its pages over HTTPS, headless Chromium. Under 1,000 events a second:

* ``first view``: of each page in Chromium with nothing in its cache, from asking to the end of the load event, and the bytes that came;
* ``answer``: of the same pages to a plain client, p95;
* ``50 open pages``: what they add to the processor time of the service (of a core), and to its PSS; ten people with five pages each;
* ``a device of 100,000 points``: its page, of a device that said as much within a day;
* ``longest task``: what Chromium's main thread was held up by while a page of 10,000 devices was scrolled and kept itself true; a frame
  is slow beyond 50 ms (long tasks, as the browser's PerformanceObserver counts them).

`ratio` is value ÷ bound. Chromium, devices and broker run on the same cores: the load beside each figure is part of it. `--small` goes
the whole way in a minute, for a look at whether it works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("", "fleet", "dashboard", "aggregator"))]

from chromium_viewer import chromium  # noqa: E402 - needs the path above
from fleet_under_load import Options, Report, rest, wait  # noqa: E402 - as above
from fleet_world import Machine, enrol_directly, health  # noqa: E402 - as above
from process_use import memory_mb  # noqa: E402 - as above
from recorded_devices import add_recorded  # noqa: E402 - lies beside this one

from fleet.dashboard.front import SECURE_COOKIE  # noqa: E402 - as above
from fleet.ingest.store import EventStore  # noqa: E402 - as above
from fleet.metrics import FleetMetrics  # noqa: E402 - as above
from fleet.retention.health_blocks import HealthRollUp  # noqa: E402 - as above
from fleet.storage.base import open_database  # noqa: E402 - as above
from simulations.hollow.assembly import Plan, make_crowd  # noqa: E402 - as above
from simulations.hollow.beside import at_work  # noqa: E402 - as above
from simulations.hollow.crowd import Pace  # noqa: E402 - as above
from simulations.hollow.ledger import percentile  # noqa: E402 - as above
from simulations.hollow.own_fleet import FAMILY, TENANT, OwnFleet  # noqa: E402 - as above
from simulations.hollow.playing import allow_connections  # noqa: E402 - as above
from simulations.processes import Supervisor  # noqa: E402 - as above

PEOPLE, OPEN = 10, 50
POINTS: Final = 100_000
MANY: Final = "press-of-100000"
TALKATIVE: Final = "/devices/" + MANY
REPEATS: Final = 7

_LOADED: Final = """() => {
  const page = performance.getEntriesByType('navigation')[0];
  const files = performance.getEntriesByType('resource').filter(one => !one.name.includes('/live'));
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return {load: page.loadEventEnd, paint: paint ? paint.startTime : page.loadEventEnd,
          bytes: [page, ...files].reduce((sum, one) => sum + one.transferSize, 0)};
}"""
_WATCH_TASKS: Final = """
window.longTasks = [];
new PerformanceObserver(list => window.longTasks.push(...list.getEntries().map(one => one.duration)))
    .observe({type: 'longtask', buffered: true});
"""


class Pages:
    """The dashboard of a fleet as people see it."""

    def __init__(self, own: OwnFleet, browser: Browser, report: Report) -> None:
        self.own, self.browser, self.report = own, browser, report
        token = own.site.plant.admin_token.read_text("ascii").strip()
        self.cookies = [self._sign_in(token)]
        for number in range(1, PEOPLE):
            name = f"person-{number}"
            made = own.site.ask("tokens", "create", "--role", "viewer", "--name", name, "--person", name)
            self.cookies.append(self._sign_in(made.strip()))

    def _sign_in(self, token: str) -> str:
        with httpx.Client(base_url=self.own.url, verify=str(self.own.site.plant.ca)) as client:
            answer = client.post("/sign-in", data={"token": token}, headers={"Origin": self.own.url})
            assert answer.status_code == 303, answer.text
            return f"{SECURE_COOKIE}={answer.cookies[SECURE_COOKIE]}"

    @contextmanager
    def helper(self, what: str, wanted: list[tuple[str, str]], *more: str) -> Iterator[subprocess.Popen[str]]:
        """`dashboard_pages.py` at work."""
        program = [sys.executable, str(Path(__file__).with_name("dashboard_pages.py")), what]
        program += ["--url", self.own.url, "--ca", str(self.own.site.plant.ca), *more]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            child.stdin.write("".join(f"{cookie} {page}\n" for cookie, page in wanted) + "\n")
            child.stdin.flush()
            try:
                yield child
            finally:
                child.kill()

    def context(self) -> Any:
        """A browser that has seen nothing yet, signed in."""
        context = self.browser.new_context(base_url=self.own.url, viewport={"width": 1280, "height": 900})
        name, _, value = self.cookies[0].partition("=")
        cookie: Any = {"name": name, "value": value, "url": self.own.url, "secure": True, "httpOnly": True}
        context.add_cookies([cookie])
        return context

    def measure_first_views(self, paths: dict[str, str]) -> None:
        """As Chromium sees them, with nothing kept."""
        for name, path in paths.items():
            seen = [self.first_view(path) for _ in range(REPEATS)]
            seen.sort(key=lambda one: one["load"])
            middle = seen[len(seen) // 2]
            self.report.tell(f"first view of {name}, median", middle["load"], "ms", 300.0)
            self.report.tell(f"first view of {name}, slowest of {REPEATS}", seen[-1]["load"], "ms")
            self.report.tell(f"first view of {name}, bytes", middle["bytes"] / 1000, "kB", 100.0)

    def first_view(self, path: str) -> dict[str, float]:
        """Load, first paint (ms after asking) and bytes of a page in a browser that has seen nothing."""
        context = self.context()
        page = context.new_page()
        page.goto(path, wait_until="load")
        page.wait_for_timeout(50)
        seen: dict[str, float] = page.evaluate(_LOADED)
        context.close()
        return seen

    def measure_answers(self, paths: dict[str, str]) -> None:
        """As a plain client sees them."""
        wanted = [(self.cookies[0], path) for path in paths.values()]
        with self.helper("ask", wanted) as child:
            assert child.stdout is not None
            for name, line in zip(paths, child.stdout, strict=True):
                said = json.loads(line)
                self.report.tell(f"answer of {name}, p95", 1000 * percentile(said["took_s"], 0.95), "ms")
                self.report.tell(f"answer of {name}, bytes", said["bytes"] / 1000, "kB")

    def measure_open(self, paths: list[str], seconds: float) -> None:
        """What open pages add to what the service costs."""
        pid = self.own.supervisor.processes["fleet"].pid
        assert pid is not None
        before, memory = busy(pid, seconds), memory_mb(pid)
        wanted = [
            (self.cookies[number % PEOPLE], paths[number // PEOPLE % len(paths)]) for number in range(OPEN)
        ]
        with self.helper("open", wanted) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(5)  # every page has learnt what it wants to hear of
            during, grown = busy(pid, seconds), memory_mb(pid) - memory
            child.stdin.close()
            got = json.loads(child.stdout.readline())
        after = busy(pid, seconds)
        alone = (before + after) / 2
        self.report.tell("service without open pages", 100 * alone, "% of a core")
        self.report.tell("50 open pages: more processor", 100 * (during - alone), "% of a core", 15.0)
        self.report.tell("50 open pages: more memory", grown, "MB PSS", 10.0)
        self.report.tell("50 open pages: sent", got["bytes"] / seconds / 1000, "kB/s")
        self.report.tell("50 open pages: ended by themselves", got["ended"], "pages", 0)

    def measure_frames(self, name: str, path: str, seconds: float) -> None:
        """What holds up Chromium's main thread while somebody scrolls a page that keeps itself true."""
        context = self.context()
        context.add_init_script(_WATCH_TASKS)
        page = context.new_page()
        page.goto(path, wait_until="load")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(100)
        tasks: list[float] = page.evaluate("() => window.longTasks")
        context.close()
        self.report.tell(f"longest task of {name}", max(tasks, default=0.0), "ms", 50.0)
        self.report.tell(f"tasks beyond 50 ms of {name}", len(tasks), "in all")


def busy(pid: int, seconds: float) -> float:
    """Cores that a process uses."""
    process = psutil.Process(pid)
    began, since = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return float(sum(process.cpu_times()[:2]) - began) / (time.monotonic() - since)


def stock(database_url: str, records: int, points: int) -> None:
    """`records` devices that are enrolled and silent, and one that said `points` things within a day.

    They are in their blocks, as a service that ran that day has them a minute later.
    """
    add_recorded(database_url, records)
    with closing(open_database(database_url)) as database:
        machine, now = Machine(name=MANY), time.time()
        enrol_directly(database, machine)
        store, every_s = EventStore(database, TENANT, FleetMetrics()), 86_000 / points
        for first in range(0, points, 500):
            some = range(first, min(first + 500, points))
            store.store([said(machine, number, now - 86_000 + number * every_s) for number in some])
        rolls_up = HealthRollUp(database, offline_after_s=60.0)
        while rolls_up.roll_up():
            pass


def said(machine: Machine, number: int, at: float) -> Any:
    """One health message of a machine whose score goes up and down."""
    mean = 0.4 + 0.2 * ((number * 7919) % 997) / 997
    told = health(
        release=f"{FAMILY}/1",
        score_mean=mean,
        score_max=1.6 * mean,
        threshold=0.9,
        interval_windows=20,
        interval_judged=20,
        memory_pss_bytes=48_000_000,
        inference_p99_us=110.0,
        drift_score=0.3,
    )
    arrived = machine.arrival(told, at=at)
    return type(arrived)(
        topic=arrived.topic.replace("/demo/", f"/{TENANT}/"),
        payload=arrived.payload,
        retained=False,
        received_at=arrived.received_at,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the dashboard of a fleet at work")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--records", type=int, default=10_000, help="devices in the database beside them")
    parser.add_argument("--events-per-s", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each comparison of load")
    parser.add_argument("--small", action="store_true", help="20 devices, a minute in all")
    given = parser.parse_args()
    options = Options(
        devices=20 if given.small else given.devices,
        database="sqlite",
        events_per_s=50.0 if given.small else given.events_per_s,
        seconds=4.0 if given.small else given.seconds,
        records=500 if given.small else given.records,
    )
    points = 3000 if given.small else POINTS
    allow_connections(options.devices)
    with tempfile.TemporaryDirectory(prefix="fedge-bench-") as name:
        home = Path(name)
        with Supervisor(home / "logs") as supervisor:
            own = OwnFleet(home, supervisor)
            own.start()
            stock(own.database_url, options.records, points)
            with chromium(own.site.plant.certificate("fleet")) as browser:
                measure(own, home, options, browser, points)


def measure(own: OwnFleet, home: Path, options: Options, browser: Browser, points: int) -> None:
    """Everything, while the crowd is at work."""
    report = Report(options)
    plan = Plan(devices=options.devices, pace=Pace(health_s=30.0))
    crowd = make_crowd(
        plan, own.place, home, lambda count: own.site.claims(FAMILY, "bench", count), lambda *_: None
    )
    pages = Pages(own, browser, report)
    paths = {
        "the overview": "/",
        "the devices": "/devices",
        "the inbox": "/anomalies",
        "the rollouts": "/rollouts",
        "a device": f"/devices/{crowd.devices[0].name}",
    }
    with at_work(crowd) as work:
        wait(lambda: crowd.connected == options.devices, "all devices to connect")
        rest(work)
        crowd.pace.events_per_s = options.events_per_s
        time.sleep(min(10.0, options.seconds))
        acked, since = crowd.ledger.acked, time.monotonic()
        pages.measure_answers(paths | {f"a device of {points:,} points": TALKATIVE})
        pages.measure_first_views(paths)
        many = sorted(pages.first_view(TALKATIVE)["load"] for _ in range(REPEATS))
        report.tell(f"a device of {points:,} points, median", many[len(many) // 2], "ms", 500.0)
        report.tell(f"a device of {points:,} points, slowest of {REPEATS}", many[-1], "ms")
        pages.measure_open([*paths.values()], options.seconds)
        pages.measure_frames("the devices", "/devices?limit=500", options.seconds)
        pages.measure_frames("the inbox", "/anomalies", options.seconds)
        arrived = (crowd.ledger.acked - acked) / (time.monotonic() - since)
        report.tell(
            "events acknowledged meanwhile",
            arrived,
            "events/s",
            0.9 * options.events_per_s,
            more_is_better=True,
        )


if __name__ == "__main__":
    main()
