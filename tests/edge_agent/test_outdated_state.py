"""Columns at the door: what was learnt of others is set aside at the start, named, kept, and used by nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.detection_memory import DetectionMemory, Progress, Remembered
from edge_agent.errors import NotReadyError
from edge_agent.kept_rows import open_stores
from edge_agent.learner.__main__ import _rows as rows_to_learn
from edge_agent.outdated_state import foreign_state, set_outdated_aside
from edge_agent.privacy.account import DeviceAccount
from edge_agent.settings import BufferSettings, LearnerSettings, StatePaths, load_agent_settings
from models.columns import describe_difference
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import fit_reference
from models.features import passthrough_spec, vibration_spec
from models.standardiser import Standardiser
from protocol.manifest import FeatureSpec
from protocol.messages.payloads import TrainingInvitation
from protocol.training import TrainingSettings

PROFILE = TrainingSettings().settled()

pytestmark = pytest.mark.edge

SPEC = passthrough_spec(("load", "speed", "heat"))
SWAPPED = passthrough_spec(("speed", "load", "heat"))
WIDER = passthrough_spec(("load", "speed", "heat", "noise"))
SCALE = Standardiser(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0), fitted_on=60)
EVERYTHING = {
    "standardiser.json",
    "commissioning.json",
    "detection.json",
    "drift.state",
    "buffer",
    "set_aside",
    "commissioning",
}


def learn(root: Path, columns: FeatureSpec = SPEC) -> StatePaths:
    """Everything that a device may have learnt about its columns."""
    paths = StatePaths(root)
    memory = DetectionMemory(paths, columns)
    memory.save_standardiser(SCALE)
    memory.save_progress(Progress(stride=2))
    memory.save_remembered(Remembered(bundle_sha256="ab" * 32))
    rows = np.random.default_rng(0).normal(size=(60, 3))
    memory.save_drift(DriftMonitor(fit_reference(rows, np.abs(rows[:, 0])), DriftSettings()))
    stores = open_stores(paths, columns, BufferSettings())
    for store in (stores.buffer, stores.set_aside, stores.gathered):
        store.append(np.zeros(3, np.float32), 1.0, 1.0)
    stores.close()
    return paths


def test_what_fits_stays_where_it_is(tmp_path: Path) -> None:
    paths = learn(tmp_path)
    assert foreign_state(paths, SPEC)[0] == []
    assert set_outdated_aside(paths, SPEC) == ""
    assert not paths.outdated.exists()
    assert set_outdated_aside(StatePaths(tmp_path / "new"), SPEC) == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SWAPPED, "'load', 'speed' have moved"),
        (WIDER, "'noise' is new here"),
        (passthrough_spec(("load", "speed")), "'heat' is missing here"),
        (passthrough_spec(("load", "pace", "heat")), "'speed' is missing here, 'pace' is new here"),
    ],
)
def test_everything_about_other_columns_is_set_aside_and_the_sentence_names_them(
    tmp_path: Path, source: FeatureSpec, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    paths = learn(tmp_path)
    told = set_outdated_aside(paths, source)
    assert words in told
    assert "outdated/1" in told
    assert words in caplog.text
    kept = paths.outdated / "1"
    assert {path.name for path in kept.iterdir()} == EVERYTHING | {"why.txt"}
    assert words in (kept / "why.txt").read_text()
    memory = DetectionMemory(paths, source)
    assert memory.load_standardiser() is None
    assert memory.load_remembered() == Remembered()
    assert len(open_stores(paths, source, BufferSettings()).buffer) == 0
    assert set_outdated_aside(paths, source) == ""


@pytest.mark.parametrize("source", [SWAPPED, WIDER])
def test_files_that_could_not_be_moved_are_used_by_nobody(tmp_path: Path, source: FeatureSpec) -> None:
    paths = learn(tmp_path)
    memory = DetectionMemory(paths, source)
    assert memory.load_standardiser() is None
    assert memory.load_progress() == Progress()
    assert memory.load_remembered() == Remembered()
    assert memory.load_drift(source.names, DriftSettings())[0] is None
    stores = open_stores(paths, source, BufferSettings())
    assert [len(store) for store in (stores.buffer, stores.set_aside, stores.gathered)] == [0, 0, 0]


def test_nothing_is_trained_on_rows_of_other_columns_than_the_releases(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n[trust]\nroot = "r"\n'
        '[source]\nkind = "simulated"\n[privacy]\nminimum_windows = 5\n'
    )
    settings = load_agent_settings(config)
    learn(settings.state_dir)
    invitation = TrainingInvitation(
        run_id="r",
        family="pump",
        base_release="pump/1",
        layout_sha256="0" * 64,
        flower_address="a:1",
        issued_at=0,
        expires_at=1,
        minimum_windows=1,
    )
    with DeviceAccount(
        settings.paths.privacy, settings.privacy, snapshots=settings.paths.snapshot
    ) as account:
        with pytest.raises(
            NotReadyError, match=r"1 windows are buffered; this device answers from 5 or more"
        ):
            rows_to_learn(settings, account, invitation, SPEC, PROFILE)
        with pytest.raises(NotReadyError, match="other columns than the release"):
            rows_to_learn(settings, account, invitation, SWAPPED, PROFILE)
        narrow = msgspec.structs.replace(settings, learner=LearnerSettings(maximum_examples=4))
        with pytest.raises(NotReadyError, match=r"maximum_examples = 4 is less than the 5 windows"):
            rows_to_learn(narrow, account, invitation, SPEC, PROFILE)
        one = msgspec.structs.replace(PROFILE, maximum_examples=1)
        with pytest.raises(NotReadyError, match=r"training profile = 1 is less than the 5 windows"):
            rows_to_learn(settings, account, invitation, SPEC, one)


def test_a_disk_that_moves_nothing_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = learn(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    assert "commissioning anew" in set_outdated_aside(paths, SWAPPED)
    assert "kept=no" in caplog.text


def test_a_state_without_fingerprints_is_taken_over_where_its_width_fits(tmp_path: Path) -> None:
    paths = learn(tmp_path)
    for path in (paths.standardiser, paths.detection, paths.drift, paths.commissioning_progress):
        content = msgspec.json.decode(path.read_bytes())
        for field in ("fingerprint", "columns"):
            content.pop(field, None)
        path.write_bytes(msgspec.json.encode(content))
    assert set_outdated_aside(paths, SPEC) == ""
    memory = DetectionMemory(paths, SPEC)
    assert memory.load_standardiser() == SCALE
    assert memory.load_remembered().bundle_sha256 == "ab" * 32
    # From now on it is about these columns, and no others.
    assert "have moved" in set_outdated_aside(paths, SWAPPED)


def test_a_state_without_fingerprints_of_another_width_is_set_aside(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.standardiser.write_bytes(msgspec.json.encode(SCALE))
    told = set_outdated_aside(paths, WIDER)
    assert "3 columns there, 4 here" in told
    assert (paths.outdated / "1" / "standardiser.json").exists()


def test_only_the_last_two_mistakes_are_kept(tmp_path: Path) -> None:
    for source in (SPEC, SWAPPED, SPEC, SWAPPED):
        paths = learn(tmp_path, source)
        set_outdated_aside(paths, SWAPPED if source is SPEC else SPEC)
    assert sorted(path.name for path in paths.outdated.iterdir()) == ["3", "4"]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"fingerprint": 3}'])
def test_a_damaged_file_is_left_to_who_opens_it(tmp_path: Path, content: bytes) -> None:
    paths = StatePaths(tmp_path)
    for path in (paths.standardiser, paths.detection, paths.drift, paths.commissioning_progress):
        path.write_bytes(content)
    assert set_outdated_aside(paths, SPEC) == ""


@given(st.permutations(("a", "b", "c", "d")), st.permutations(("a", "b", "c", "d")))
def test_two_orders_of_columns_differ_exactly_where_a_name_has_moved(
    one: list[str], other: list[str]
) -> None:
    told = describe_difference(passthrough_spec(one), passthrough_spec(other))
    moved = [name for name, here in zip(one, other, strict=True) if name != here]
    assert bool(told) == bool(moved)
    assert all(repr(name) in told for name in moved[:3])


def test_the_rate_and_the_samples_of_a_window_are_columns_too() -> None:
    assert "sample_rate_hz 12800.0 there, 25600.0 here" in describe_difference(
        vibration_spec(12800.0, 2048), vibration_spec(25600.0, 2048)
    )
    twice = FeatureSpec(kind="passthrough", names=("a", "a", "b"), channels=3)
    assert describe_difference(twice, FeatureSpec(kind="passthrough", names=("a", "b", "b"), channels=3))
