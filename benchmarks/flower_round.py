"""Seconds a Flower round takes: real server, real learner processes, TLS on loopback. JSON lines.

``python benchmarks/flower_round.py [--devices 2 12] [--rounds 5]``. Each line: devices, median and worst seconds a
round, the devices' training included, processor seconds of the aggregator a round, wall seconds until all were
online, and per learner PSS and the processor seconds it took to start. Target: ≤ 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "aggregator"))
import flower_world as world
from waiting import wait_until

from aggregator.flower.server import FlowerServer, FlowerServerSettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from models.architecture import initial_parameters
from protocol.questions import FitQuestion, fit_layout


def main() -> None:
    """Measure each fleet size in a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bundle = world.build_bundle()
    for count in options.devices:
        with tempfile.TemporaryDirectory() as root:
            print(json.dumps(measure(Path(root), bundle, count, options.rounds)), flush=True)


def measure(root: Path, bundle: bytes, count: int, rounds: int) -> dict[str, float]:
    """Run `rounds` FIT rounds with `count` learners."""
    tls = world.make_tls(root)
    cohort = [world.make_device(root, f"device-{i}", bundle, tls, seed=i) for i in range(count)]
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=root / "aggregator")
    parameters = initial_parameters(world.ARCHITECTURE, 3)
    layout = fit_layout(len(parameters))
    whole, processor = [], []
    with FlowerServer(settings, world.IDENTITY) as server:
        server.sync_roster({device.id: device.public_key for device in cohort})
        run = server.start_run()
        collector = PlainCollector(server.link(run))
        started = time.monotonic()
        with world.learners(cohort, server.port) as children:
            wait_until(lambda: len(server.online_devices()) == count, "all learners online")
            online_s = time.monotonic() - started
            start_cpu = [_processor_seconds(child.pid) for child in children.values()]
            for number in range(1, rounds + 1):
                question = FitQuestion(
                    run_id="benchmark",
                    round_number=number,
                    layout_sha256=world.ARCHITECTURE.layout_sha256,
                    profile_sha256=world.PROFILE.sha256,
                )
                before = time.process_time()
                result = collector.collect(
                    CohortQuestion(
                        question=question,
                        arrays={"parameters": parameters},
                        layout=layout,
                        admission=admit_update(norm_limit=100.0),
                    ),
                    Cohort(devices=tuple(device.id for device in cohort), quorum=count),
                    deadline_s=60,
                )
                processor.append(time.process_time() - before)
                whole.append(result.seconds)
            pss = [_pss_bytes(child.pid) for child in children.values()]
        traffic = server.traffic(run)
    return {
        "devices": count,
        "rounds": rounds,
        "round_s": round(statistics.median(whole), 3),
        "round_worst_s": round(max(whole), 3),
        "aggregator_processor_s_per_round": round(statistics.median(processor), 3),
        "all_online_s": round(online_s, 2),
        "learner_start_processor_s": round(statistics.median(start_cpu), 2),
        "learner_pss_mib": round(statistics.median(pss) / 2**20, 1),
        "bytes_per_device_and_round": round(
            (traffic.to_devices_bytes + traffic.from_devices_bytes) / count / rounds
        ),
        "load_1m": round(os.getloadavg()[0], 1),
    }


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
