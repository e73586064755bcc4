"""How long a revocation takes at a real Mosquitto over TLS, and how long the broker does nothing else. One JSON line a figure.

    python benchmarks/broker_door.py [--shut-out 0 1000 10000] [--revocations 20]

For each number of devices that are shut out already: `revoke_s` is the median time of the call that revokes one more, until the
broker has confirmed; `compare_s` what the fleet needs to read and compare the list when it connects; `state_bytes` the plugin's
file, which it writes whole at each command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fleet")]

from fleet_world import Machine  # noqa: E402 - needs the path above; the same site as in the tests
from mosquitto_site import MosquittoSite  # noqa: E402 - as above
from structlog.testing import capture_logs  # noqa: E402 - as above
from waiting import wait_until  # noqa: E402 - as above

from fleet.storage.device_tables import Device, DeviceState  # noqa: E402 - as above
from service.roles import Role  # noqa: E402 - as above


def tell(shut_out: int, name: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(
        json.dumps({"shut_out": shut_out, "name": name, "value": round(value, 4), "unit": unit}), flush=True
    )


def measure(shut_out: int, revocations: int, folder: Path) -> None:
    """Print the figures of one number of devices."""
    site = MosquittoSite(folder, f"sqlite:///{folder}/data/fleet.sqlite")
    names = [f"out-{n:05}" for n in range(shut_out)]
    site.add_devices(*(Machine(name=name) for name in names))
    site.add_devices(*(Machine(name=f"next-{n}") for n in range(revocations)))
    with site.database.write() as session:
        for name in names:
            session.get_one(Device, name).state = DeviceState.REVOKED
    site.start()
    took = []
    started = time.perf_counter()
    with capture_logs() as logs, site.fleet() as fleet:
        wait_until(lambda: any(line["event"] == "broker_connected" for line in logs), "the connection")
        started = time.perf_counter()
        wait_until(lambda: any(line["event"] == "broker_door_compared" for line in logs), "the comparison")
        tell(shut_out, "compare_s", time.perf_counter() - started, "s")
        for n in range(revocations):
            started = time.perf_counter()
            answer = fleet.call(
                "POST", f"/v1/devices/next-{n}:revoke", Role.ADMIN, json={"confirm": f"next-{n}"}
            )
            took.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
    tell(shut_out, "revoke_s", statistics.median(took), "s")
    tell(shut_out, "slowest_revoke_s", max(took), "s")
    tell(shut_out, "state_bytes", site.state.stat().st_size, "bytes")
    site.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Revocations against a real Mosquitto")
    parser.add_argument("--shut-out", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--revocations", type=int, default=20)
    options = parser.parse_args()
    for shut_out in options.shut_out:
        with tempfile.TemporaryDirectory() as folder:
            measure(shut_out, options.revocations, Path(folder))


if __name__ == "__main__":
    main()
