"""What the aggregator adds to a round: the sum, the server step, the commit. One JSON object a line.

    python benchmarks/aggregation.py [--parameters N] [--devices N] [--repeats N]

Each figure names its peer: Flower's own aggregation of the same updates in the same process, or plain NumPy, or the bound
that the design sets. Devices answer at once from memory, so nothing of Flower's transport or of training is in here
(`flower_round.py` measures those). Times are the median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}  # before flwr is imported

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.optimizers import FedAdam, FedAvg
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from protocol.names import DeviceId, FamilyName, RunId
from protocol.questions import FitQuestion, Question, fit_layout

ROUND_OVERHEAD_TARGET_S = 2.0


class MemoryLink:
    """Implements `CohortLink`: every answer is there at once."""

    def __init__(self, answers: Mapping[DeviceId, NDArray[np.float32]]) -> None:
        self._answers = answers

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        lifetime_s: float,
    ) -> dict[Ticket, DeviceId]:
        """See `CohortLink.ask`."""
        del question, arrays, lifetime_s
        return {Ticket(device): device for device in devices}

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[np.ndarray]]:
        """See `CohortLink.replies`."""
        del wait_s
        return [
            DeviceReply(ticket=ticket, device=DeviceId(ticket), content=self._answers[DeviceId(ticket)])
            for ticket in tickets
        ]

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        """See `CohortLink.withdraw`."""
        del tickets


def report(name: str, value: float, unit: str, peer: str, peer_value: float) -> None:
    line = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
    }
    print(json.dumps(line | {"ratio": round(value / peer_value, 3)}), flush=True)


def median_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def measure_round(parameters: int, devices: int, repeats: int) -> None:
    rng, layout = np.random.default_rng(0), fit_layout(parameters)
    weights = rng.normal(size=parameters).astype(np.float32)
    updates = [rng.normal(scale=0.01, size=parameters).astype(np.float32) for _ in range(devices)]
    answers = {
        DeviceId(f"d{i}"): layout.pack(
            {
                "update": update,
                "votes": np.array([1.0]),
            }
        )
        for i, update in enumerate(updates)
    }
    collector = PlainCollector(MemoryLink(answers))
    question = FitQuestion(run_id="r", round_number=1, layout_sha256="0" * 64, profile_sha256="0" * 64)

    def collect() -> NDArray[np.float64]:
        return collector.collect(
            CohortQuestion(
                question=question,
                arrays={"parameters": weights},
                layout=layout,
                admission=admit_update(norm_limit=1e9),
            ),
            Cohort(devices=tuple(answers), quorum=devices),
            deadline_s=60.0,
        ).total

    def step() -> NDArray[np.float32]:
        parts = layout.unpack(collect())
        return FedAvg().step(np.zeros((0, parameters)), weights, parts["update"] / parts["votes"][0])[1]

    records = [
        RecordDict({"arrays": ArrayRecord([weights + update]), "metrics": MetricRecord({"n": 1})})
        for update in updates
    ]
    theirs = aggregate_arrayrecords(records, "n").to_numpy_ndarrays()[0]
    assert np.allclose(step(), theirs, atol=1e-4), "both must give the same model"
    ours_ms = median_ms(step, repeats)
    theirs_ms = median_ms(lambda: aggregate_arrayrecords(records, "n"), repeats)
    what = f"{devices} updates of {parameters} parameters"
    report(
        f"admit, add up and step: {what}",
        ours_ms,
        "ms",
        "Flower's FedAvg aggregation, no admission",
        theirs_ms,
    )
    adam = FedAdam()
    state, update = adam.init(weights), updates[0].astype(np.float64)
    report(
        f"FedAdam step, {parameters} parameters",
        median_ms(lambda: adam.step(state, weights, update), repeats),
        "ms",
        "FedAvg step",
        median_ms(lambda: FedAvg().step(state, weights, update), repeats),
    )


def measure_commit(parameters: int, repeats: int) -> None:
    run = TrainingRun(
        id=RunId("r"),
        family=FamilyName("f"),
        trigger="person",
        reason="benchmark",
        requested_by="benchmark",
        rounds=1,
        state=RunState.ROUND,
        created_at=0.0,
        updated_at=0.0,
    )
    moments, weights = bytes(16 * parameters), bytes(4 * parameters)
    with tempfile.TemporaryDirectory() as directory:
        store = RunStore(Path(directory) / "runs.sqlite")
        store.add(run)
        commit_ms = median_ms(lambda: store.save(run, {"parameters": weights, "moments": moments}), repeats)
        store.close()
    report(
        f"commit of a finished round with FedAdam's moments, {parameters} parameters",
        commit_ms,
        "ms",
        "target for everything beyond training in a round",
        1e3 * ROUND_OVERHEAD_TARGET_S,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parameters", type=int, nargs="*", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--devices", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for parameters in options.parameters:
        measure_round(parameters, options.devices, options.repeats)
        measure_commit(parameters, options.repeats)


if __name__ == "__main__":
    main()
