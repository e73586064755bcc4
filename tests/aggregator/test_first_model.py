"""Recordings become a first release: whole or not at all, and never one that is none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aggregator_service_world import TOKEN, HttpFleet, serve_fleet
from flower_world import RELEASE_KEY, Tls, make_tls
from numpy.typing import NDArray
from secret_file import secret_file

from aggregator import first_model
from aggregator.errors import BlindDetectorError, FleetUnreachableError, MisfitError
from aggregator.exporter import SigningExporter
from aggregator.family_folder import load_family
from aggregator.family_text import family_text
from aggregator.first_model import FirstModel, hand_in, make_first_model, next_version, pending
from aggregator.machine_checks import training_rows
from aggregator.publishing import PublishingFleet
from aggregator.settings import FleetSettings
from models.features import passthrough_spec
from models.recordings.machines import Machine, Reading
from protocol.bundle import peek_manifest
from runtime.errors import SettingsError
from service.plant import Plant
from service.plant_description import Description, Listen

pytestmark = pytest.mark.slow

NAMES = tuple(f"s{i}" for i in range(6))
TEXT = family_text("valve", NAMES, machines=["m"], sample_rate_hz=1.0, commissioning_rows=120, now=0.0)


def plant_in(folder: Path) -> Plant:
    listen = Listen(fleet="127.0.0.1:1", aggregator="127.0.0.1:2", flower="127.0.0.1:3", broker="127.0.0.1:4")
    (folder / "aggregator" / "data").mkdir(parents=True)
    return Plant(folder=folder, description=Description(tenant="demo", host="localhost", listen=listen))


def rows_of(seed: int, *, together: float = 2.0, rows: int = 400) -> NDArray[np.float32]:
    """Sensors that follow two latent quantities, the less the smaller `together` is."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(2, len(NAMES)))
    made = together * rng.normal(size=(rows, 2)) @ basis + 0.3 * rng.normal(size=(rows, len(NAMES)))
    return (made + 10.0).astype(np.float32)


def read(machines: Sequence[NDArray[np.float32]], labels: NDArray[np.int8] | None = None) -> Reading:
    made = tuple(
        Machine(
            name=f"m{i}",
            rows=rows,
            times_s=None,
            labels=labels,
            pieces=(slice(0, len(rows)),),
            path=Path(f"m{i}.csv"),
        )
        for i, rows in enumerate(machines)
    )
    return Reading(
        sensors=NAMES,
        columns=(),
        sample_rate_hz=1.0,
        machines=made,
        notes=(),
        refused=(),
        answers={"date_order": "year"},
    )


def make(plant: Plant, reading: Reading, *, accepts_blind: bool = False) -> tuple[FirstModel, Path]:
    return make_first_model(
        plant,
        "valve",
        reading,
        SigningExporter(RELEASE_KEY),
        version=1,
        accepts_blind=accepts_blind,
        progress=lambda _stage, _share: None,
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plant, FirstModel, Path]:
    plant = plant_in(tmp_path_factory.mktemp("plant"))
    return plant, *make(plant, read([rows_of(i) for i in range(3)]))


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return make_tls(tmp_path)


@pytest.fixture
def client(tmp_path: Path, tls: Tls, fleet: HttpFleet) -> Iterator[PublishingFleet]:
    settings = FleetSettings(
        url=f"https://127.0.0.1:{fleet.port}",
        ca_file=tls.ca,
        token_file=secret_file(tmp_path / "fleet.token", TOKEN),
    )
    client = PublishingFleet(settings, RELEASE_KEY, directory=tmp_path / "lists", now=lambda: 1e9)
    yield client
    client.close()


@pytest.fixture
def fleet(tls: Tls) -> Iterator[HttpFleet]:
    with serve_fleet(HttpFleet(), tls) as served:
        yield served


def test_machines_fit_and_the_family_is_kept_for_a_person(made: tuple[Plant, FirstModel, Path]) -> None:
    plant, model, path = made
    assert model.fit.sentence == "fits: 3 of 3 machines"
    assert model.release.detector == "mixture"
    family = load_family(plant.family_file("valve"))
    assert family.spec().features.names == NAMES
    assert json.loads(plant.reading_file("valve").read_text()) == {"date_order": "year"}
    assert pending(plant, "valve") == path
    assert pending(plant, "val") is None
    path.rename(path.with_name("valve-west-1.fedge"))
    assert pending(plant, "valve") is None
    path.with_name("valve-west-1.fedge").rename(path)
    assert peek_manifest(path.read_bytes()).release == "valve/1"


def test_what_was_cut_off_while_it_was_handed_in_is_handed_in_by_doing_it_again(
    made: tuple[Plant, FirstModel, Path], tmp_path: Path, fleet: HttpFleet, client: PublishingFleet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    content, path = made[2].read_bytes(), tmp_path / "valve-1.fedge"
    path.write_bytes(content)
    assert next_version(client, "valve") == 1

    def gone(*_: object) -> str:
        raise FleetUnreachableError("the fleet went away")

    with monkeypatch.context() as cut:
        cut.setattr(PublishingFleet, "start_rollout", gone)
        with pytest.raises(FleetUnreachableError):
            hand_in(client, content, "valve/1", path)
    assert path.exists()
    for _ in range(2):
        hand_in(client, content, "valve/1", path)
    assert not path.exists()
    assert list(fleet.bundles) == ["valve/1"]
    (rollout,) = fleet.rollouts
    assert (rollout["release"], rollout["dynamic"], rollout["state"]) == ("valve/1", True, "RUNNING")
    assert next_version(client, "valve") == 2


def test_nothing_is_signed_of_machines_that_are_none_and_nothing_is_left_behind(tmp_path: Path) -> None:
    plant = plant_in(tmp_path / "plant")
    good = [rows_of(i) for i in range(3)]
    dead, other, jumps = rows_of(5), rows_of(6), rows_of(7)
    dead[:, 2] = 0.0
    other[:, 3] *= np.float32(1000.0)
    jumps[130:] += np.float32(500.0)
    still = [np.ones_like(rows) for rows in good]
    for machines, said in (
        ([*good, dead], "m3, column 's2': it never moves"),
        ([*good, other], "m3, column 's3': its values are"),
        ([jumps, jumps], "beyond the scale that its first 120 rows show"),
        ([rows[:30] for rows in good], "30 rows"),
        (still, "no column moves on any machine"),
    ):
        with pytest.raises(MisfitError) as refused:
            make(plant, read(machines))
        assert said in str(refused.value)
    assert files_in(plant.folder) == []


def blindness(
    machines: Sequence[NDArray[np.float32]], labels: NDArray[np.int8] | None = None
) -> tuple[bool, str]:
    spec = load_family(Path("valve.toml"), text=TEXT).spec()
    rows = training_rows(read(machines, labels), NAMES, passthrough_spec(NAMES))
    return first_model._blindness(spec, rows, accepts_blind=False)


def test_a_detector_that_hardly_sees_is_a_question_unless_labelled_faults_answer_it(tmp_path: Path) -> None:
    plant = plant_in(tmp_path / "plant")
    # spikes of three deviations are what such machines do all the time
    spiky = [
        (10 + np.random.default_rng(i).standard_t(3, size=(700, len(NAMES)))).astype(np.float32)
        for i in range(3)
    ]
    with pytest.raises(BlindDetectorError, match="Is that enough"):
        make(plant, read(spiky))
    assert files_in(plant.folder) == []
    labels = np.zeros(700, np.int8)
    labels[600:] = 1
    for rows in spiky:
        rows[600:] += np.float32(20.0)
    accepts, why = blindness(spiky, labels)
    assert (accepts, "3 of 3 labelled faults at once" in why) == (True, True)


def test_sensors_that_do_not_follow_each_other_are_no_question_and_it_is_said(tmp_path: Path) -> None:
    accepts, why = blindness([rows_of(i, together=0.0, rows=700) for i in range(3)])
    assert accepts
    assert "what moves one sensor alone must move it further" in why
    assert blindness([rows_of(i) for i in range(3)]) == (False, "")


def test_a_family_that_is_kept_is_used_as_it_stands_and_for_its_columns_only(
    made: tuple[Plant, FirstModel, Path], tmp_path: Path
) -> None:
    plant = plant_in(tmp_path / "plant")
    plant.families.mkdir()
    kept = made[0].family_file("valve").read_text().replace("epochs = 400", "epochs = 1")
    plant.family_file("valve").write_text(kept)
    short = replace(read([rows_of(i) for i in range(3)]), sensors=("other", *NAMES[1:]))
    with pytest.raises(SettingsError, match=r"missing here: s0; new here: other"):
        make(plant, short)
    spec = first_model._spec(plant.family_file("valve"), None, NAMES)
    assert spec.training.epochs == 1
    assert plant.family_file("valve").read_text() == kept
