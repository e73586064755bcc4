"""Seconds a secure round takes: real server, real learner processes, TLS on loopback. JSON lines.

``python benchmarks/secure_round.py [--devices 3 12] [--rounds 5] [--compare-survivors] [--one-group]``. Each line: devices, median and worst
seconds a round, processor seconds of the aggregator a round, bytes per device and round. Training, masking and charging
are in it: devices do not tell how long they train. The plain twin is benchmarks/flower_round.py. Target: ≤ 3 s with 12 devices.
"""

from __future__ import annotations

import argparse
import dataclasses
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
import numpy as np
from waiting import wait_until

from aggregator.flower.server import FlowerServer, FlowerServerSettings
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort, Group
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.groups import Memory, deal
from aggregator.rounds.secure_collector import SecureCollector
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from models.architecture import initial_parameters
from protocol.names import DeviceId, FamilyName
from protocol.questions import FitQuestion, fit_layout


def main() -> None:
    """Measure each fleet size in a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[3, 12])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare-survivors", action="store_true")
    parser.add_argument("--one-group", action="store_true", help="one sum of all, as below 12 devices")
    options = parser.parse_args()
    bundle = world.build_bundle()
    for count in options.devices:
        with tempfile.TemporaryDirectory() as root:
            figures = measure(
                Path(root),
                bundle,
                count,
                options.rounds,
                compares=options.compare_survivors,
                one_group=options.one_group,
            )
            print(json.dumps(figures), flush=True)


def measure(
    root: Path, bundle: bytes, count: int, rounds: int, *, compares: bool, one_group: bool
) -> dict[str, float | bool]:
    """Run `rounds` secure FIT rounds with `count` learners, in groups of four where there are so many."""
    tls = world.make_tls(root)
    policy = SumPolicy(
        norm_limit=10.0, maximum_examples=10_000, stages=SecureSumSettings(requires_confirmation=compares)
    )
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=root / "aggregator")
    parameters = initial_parameters(world.ARCHITECTURE, 3)
    whole, processor, participants = [], [], 0
    devices = tuple(DeviceId(f"device-{i}") for i in range(count))
    whole_cohort = Cohort(devices=devices, quorum=count)
    dealt = deal(devices, Memory(), np.random.default_rng(0), size=4, fewest=3)
    grouped = dataclasses.replace(
        whole_cohort, groups=tuple(Group(devices=group, quorum=len(group)) for group in dealt)
    )
    with world.FamilyFleet().serving(tls) as fleet, FlowerServer(settings, world.IDENTITY) as server:
        cohort = [
            world.make_device(root, f"device-{i}", bundle, tls, seed=i, fleet=fleet) for i in range(count)
        ]
        server.sync_roster({device.id: device.public_key for device in cohort})
        run = server.start_run()
        accounts = PrivacyAccounts(root / "privacy.sqlite", {}, now=time.time)
        collector = SecureCollector(
            server.stage_link(run),
            roster={device.id: device.key.public_key() for device in cohort},
            policy=dataclasses.replace(policy),
            accounts=accounts,
            family=FamilyName("press"),
            random_bytes=os.urandom,
        )
        with world.learners(cohort, server.port):
            wait_until(lambda: len(server.online_devices()) == count, "all learners online")
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
                        layout=fit_layout(len(parameters)),
                        admission=admit_update(norm_limit=100.0),
                    ),
                    whole_cohort if one_group else grouped,
                    deadline_s=60,
                )
                processor.append(time.process_time() - before)
                whole.append(result.seconds)
                participants = len(result.participants)
        traffic = server.traffic(run)
        accounts.close()
    return {
        "devices": count,
        "rounds": rounds,
        "groups": 1 if one_group else len(dealt),
        "participants": participants,
        "requires_confirmation": compares,
        "round_s": round(statistics.median(whole), 3),
        "round_worst_s": round(max(whole), 3),
        "aggregator_processor_s_per_round": round(statistics.median(processor), 3),
        "bytes_per_device_and_round": round(
            (traffic.to_devices_bytes + traffic.from_devices_bytes) / count / rounds
        ),
        "load_1m": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
