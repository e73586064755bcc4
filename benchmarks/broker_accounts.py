"""Enrolling many devices at once against a real Mosquitto over TLS. One JSON line per figure.

    python benchmarks/broker_accounts.py [--accounts 200 2000 10000] [--bursts 30]

For each number of accounts that the broker already has: `bursts` times eight devices enrol at once by HTTP and then connect
by MQTT. `burst_s` is the median time until all eight are in, `refused` how many were not let in (must be 0). Then the
broker loses a hundred of the accounts, and the fleet is started: `repair_s_per_account`. `state_bytes` is the plugin's
file, which it writes whole at each command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fleet")]

from fleet_world import Machine, fleet_process, make_claims  # noqa: E402 - needs the path above; the same site as in the tests
from mosquitto_site import MosquittoSite  # noqa: E402 - as above
from waiting import wait_until  # noqa: E402 - as above

AT_ONCE = 8
LOST = 100


def tell(accounts: int, name: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(
        json.dumps({"accounts": accounts, "name": name, "value": round(value, 4), "unit": unit}), flush=True
    )


def enrol_in_bursts(site: MosquittoSite, url: str, bursts: int) -> tuple[list[float], int]:
    """Seconds of each burst until all its devices were connected, and how many devices were refused."""
    claims = make_claims(site.database, bursts * AT_ONCE, now=time.time())
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(AT_ONCE) as pool:

        def enrol(machine: Machine) -> bool:
            headers = {"Authorization": f"Bearer {claims.pop()}"}
            answer = http.post("/v1/enrolments", json=machine.enrolment(), headers=headers)
            login = answer.raise_for_status().json()["mqtt"]
            return site.connect(login["username"], login["password"]).is_in

        took, refused = [], 0
        for burst in range(bursts):
            machines = [Machine(name=f"new-{burst}-{n}") for n in range(AT_ONCE)]
            started = time.perf_counter()
            refused += list(pool.map(enrol, machines)).count(False)
            took.append(time.perf_counter() - started)
    return took, refused


def measure(accounts: int, bursts: int, folder: Path) -> None:
    """Print the figures of one number of accounts."""
    site = MosquittoSite(folder, f"sqlite:///{folder}/data/fleet.sqlite")
    names = [f"old-{n:05}" for n in range(accounts)]
    site.add_devices(*(Machine(name=name) for name in names))
    site.write_state()
    site.broker.start()
    log = folder / "fleet.log"
    with fleet_process(site.config, log) as (_, url):
        wait_until(lambda: "broker_accounts_compared" in log.read_text(), "the fleet to know the broker")
        took, refused = enrol_in_bursts(site, url, bursts)
    tell(accounts, "burst_s", statistics.median(took), f"s for {AT_ONCE} devices enrolled and connected")
    tell(accounts, "slowest_burst_s", max(took), "s")
    tell(accounts, "refused", refused, f"devices of {bursts * AT_ONCE}")
    tell(accounts, "state_bytes", site.state.stat().st_size, "bytes")
    site.broker.stop()
    state = json.loads(site.state.read_text())
    lost = set(names[:LOST])
    state["clients"] = [client for client in state["clients"] if client["username"] not in lost]
    site.state.write_text(json.dumps(state))
    site.broker.start()
    log.unlink()
    with fleet_process(site.config, log):
        wait_until(lambda: "broker_accounts_compared" in log.read_text(), "the fleet to see what is missing")
        started = time.perf_counter()
        wait_until(
            lambda: f'"{names[LOST - 1]}"' in site.state.read_text(), "the repair", progress=time.monotonic
        )
        tell(accounts, "repair_s_per_account", (time.perf_counter() - started) / LOST, "s")
    site.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Enrolments at once against a real Mosquitto")
    parser.add_argument("--accounts", type=int, nargs="+", default=[200, 2000, 10_000])
    parser.add_argument("--bursts", type=int, default=30)
    options = parser.parse_args()
    for accounts in options.accounts:
        with tempfile.TemporaryDirectory() as folder:
            measure(accounts, options.bursts, Path(folder))


if __name__ == "__main__":
    main()
