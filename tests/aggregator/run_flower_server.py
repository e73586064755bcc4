"""A minimal aggregator for the kill test: serve, run rounds as fast as they go, write one line per finished round."""

import json
import sys
import time
from pathlib import Path

from flower_world import IDENTITY, PROFILE

from aggregator.flower.server import FlowerServer, FlowerServerSettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import QuorumMissedError
from models.architecture import Architecture, initial_parameters
from protocol.names import DeviceId
from protocol.questions import FitQuestion, fit_layout


def main(data: Path, port: int, cert: Path, key: Path) -> None:
    architecture = Architecture(kind="dense-autoencoder", layers=(6, 4, 6))
    parameters = initial_parameters(architecture, 3)
    layout = fit_layout(len(parameters))
    settings = FlowerServerSettings(port=port, tls_cert=cert, tls_key=key, data_dir=data)
    with FlowerServer(settings, IDENTITY) as server:
        server.sync_roster({DeviceId(path.stem): path.read_bytes() for path in (data / "keys").glob("*.pem")})
        collector = PlainCollector(server.link(server.start_run()))
        while True:
            if len(server.online_devices()) < 2:
                time.sleep(0.1)
                continue
            question = FitQuestion(
                run_id="r",
                round_number=1,
                layout_sha256=architecture.layout_sha256,
                profile_sha256=PROFILE.sha256,
            )
            try:
                result = collector.collect(
                    CohortQuestion(
                        question=question,
                        arrays={"parameters": parameters},
                        layout=layout,
                        admission=admit_update(norm_limit=10),
                    ),
                    Cohort(devices=tuple(server.roster()), quorum=2),
                    deadline_s=10,
                )
            except QuorumMissedError:
                continue
            with (data / "rounds.jsonl").open("a") as lines:
                lines.write(json.dumps(list(result.participants)) + "\n")


main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
