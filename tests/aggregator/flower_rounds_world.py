"""A running Flower server with three devices on its roster, and a round of questions to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from waiting import AMPLE_S, wait_until

from aggregator.flower.server import FlowerRun, FlowerServer, FlowerServerSettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import CohortSum
from models.architecture import initial_parameters
from protocol.questions import FitQuestion, fit_layout

PARAMETERS = initial_parameters(world.ARCHITECTURE, 3)
LAYOUT = fit_layout(len(PARAMETERS))
ADMISSION = admit_update(norm_limit=10.0)


@pytest.fixture(scope="session")
def bundle() -> bytes:
    return world.build_bundle()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> world.Tls:
    return world.make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(tmp_path: Path, tls: world.Tls) -> Iterator[FlowerServer]:
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "aggregator")
    with FlowerServer(settings, world.IDENTITY) as running:
        yield running


@pytest.fixture
def devices(tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer) -> list[world.Device]:
    made = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i) for i in range(3)]
    server.sync_roster({device.id: device.public_key for device in made})
    return made


def fit(round_number: int = 1, layout: str = world.ARCHITECTURE.layout_sha256) -> FitQuestion:
    return FitQuestion(
        run_id="run-1",
        round_number=round_number,
        layout_sha256=layout,
        profile_sha256=world.PROFILE.sha256,
    )


def honest(_question: object, _arrays: object) -> np.ndarray:
    parts = {
        "update": np.full(len(PARAMETERS), 0.05),
        "votes": np.array([1.0]),
    }
    return LAYOUT.pack(parts)


def collect(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    *,
    deadline_s: float = AMPLE_S,
    quorum: int = 1,
    enough: int | None = None,
    question: FitQuestion | None = None,
) -> CohortSum:
    return PlainCollector(server.link(run)).collect(
        CohortQuestion(
            question=question or fit(), arrays={"parameters": PARAMETERS}, layout=LAYOUT, admission=ADMISSION
        ),
        Cohort(devices=tuple(device.id for device in cohort), quorum=quorum, enough=enough),
        deadline_s=deadline_s,
    )


def online(server: FlowerServer, *cohort: world.Device) -> None:
    ids = {device.id for device in cohort}
    wait_until(lambda: ids <= server.online_devices(), f"{sorted(ids)} online")
