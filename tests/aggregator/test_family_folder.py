"""Families that come while the aggregator runs: a file each, and a broken one takes nothing from the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregator_service_world import (
    AggregatorProcess,
    EmbeddedBroker,
    HttpFleet,
    run_cli,
    serve_fleet,
    write_config,
    write_release_key,
)
from flower_world import RELEASE_KEY, Tls, make_tls
from waiting import wait_until

from aggregator.family_folder import Budgets, Families, load_family
from aggregator.rounds.family import FamilySettings
from protocol.names import FamilyName
from runtime.errors import SettingsError

VALVE = """
name = "valve"
[rounds]
count = 2
[privacy.budget]
maximum_participations = 7
[features]
kind = "passthrough"
names = ["flow", "pressure", "current", "voltage"]
[model]
layers = [4, 3, 4]
[first_release]
epochs = 60
seed = 5
"""


def test_a_file_is_a_family_and_what_its_first_release_is_made_of(tmp_path: Path) -> None:
    path = tmp_path / "valve.toml"
    path.write_text(VALVE)
    family = load_family(path)
    spec = family.spec()
    assert (family.rounds.count, spec.family, spec.model.layers) == (2, "valve", (4, 3, 4))
    assert (spec.training.epochs, spec.seed, spec.profile) == (60, 5, family.training)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "pump"\n', "the file's name says 'valve'"),
        ('name = "valve"\n[cohort]\nminimum_device = 4\n', "minimum_devices"),
        (VALVE.replace("[4, 3, 4]", "[5, 3, 5]"), "there are 4 features"),
        (VALVE[: VALVE.index("[model]")], "give both or neither"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_what_would_be_right(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "valve.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"valve\.toml") as refused:
        load_family(path)
    assert said in str(refused.value)


def test_families_come_change_and_go_while_others_stay(tmp_path: Path) -> None:
    fixed = {"press": FamilySettings(name="press")}
    families = Families(fixed, tmp_path / "families")
    assert dict(families) == fixed
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "valve.toml").write_text(VALVE)
    families.refresh()
    assert sorted(families) == ["press", "valve"]
    assert Budgets(families)[FamilyName("valve")].maximum_participations == 7
    (folder / "valve.toml").write_text(VALVE.replace("count = 2", "count = 30"))
    families.refresh()
    assert families["valve"].rounds.count == 30
    (folder / "valve.toml").unlink()
    families.refresh()
    assert sorted(families) == ["press"]


def test_a_broken_file_is_one_problem_and_what_it_held_before_stays_in_force(tmp_path: Path) -> None:
    for name in ("pump", "valve"):
        (tmp_path / f"{name}.toml").write_text(VALVE.replace('"valve"', f'"{name}"'))
    (tmp_path / "press.toml").write_text('name = "press"\n')
    families = Families({"press": FamilySettings(name="press")}, tmp_path)
    assert list(families.problems) == [tmp_path / "press.toml"]
    (tmp_path / "valve.toml").write_text("name = \n")
    families.refresh()
    assert sorted(families) == ["press", "pump", "valve"]
    assert sorted(path.stem for path in families.problems) == ["press", "valve"]
    assert "not valid TOML" in families.problems[tmp_path / "valve.toml"]
    (tmp_path / "valve.toml").write_text(VALVE)
    (tmp_path / "press.toml").unlink()
    families.refresh()
    assert families.problems == {}


def test_a_folder_that_cannot_be_read_takes_no_family_away(tmp_path: Path) -> None:
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "valve.toml").write_text(VALVE)
    families = Families({}, folder)
    folder.rename(tmp_path / "away")
    folder.write_text("no folder")
    families.refresh()
    assert sorted(families) == ["valve"]
    assert "cannot be read" in families.problems[folder]


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    write_release_key(tmp_path / "release.key", RELEASE_KEY)
    return make_tls(tmp_path)


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker()
    made.start()
    yield made
    made.close()


@pytest.mark.slow
def test_a_running_aggregator_that_began_without_a_family_takes_one_without_a_restart(
    tmp_path: Path, tls: Tls, broker: EmbeddedBroker
) -> None:
    with serve_fleet(HttpFleet(), tls) as fleet:
        config = write_config(tmp_path, tls, fleet.port, broker.port, families_dir="families")
        text = config.read_text()
        config.write_text(text[: text.index("[[family]]")])
        aggregator = AggregatorProcess(config, tls)
        try:
            aggregator.start()
            asked = {"family": "valve", "reason": "a test"}
            assert aggregator.http.post("/v1/training-runs", json=asked).status_code == 404
            folder = tmp_path / "families"
            folder.mkdir()
            (folder / "broken.toml").write_text("name = 3\n")
            (folder / "valve.toml").write_text(VALVE)
            wait_until(lambda: "family_taken" in aggregator.log(), "the new family")
            assert aggregator.http.post("/v1/training-runs", json=asked).status_code == 201
            said = [
                json.loads(line) for line in aggregator.log().splitlines() if "family_file_refused" in line
            ]
            assert len(said) == 1
            assert "broken.toml" in said[0]["reason"]
        finally:
            aggregator.close()
        checked = run_cli("check-config", "--config", str(config))
        assert checked.returncode == 2
        assert checked.stderr.count("\n") == 1
        assert "broken.toml" in checked.stderr
