"""What an installer finds on its disk: a journal that holds or not, bundles of every kind, and what it makes of them."""

from __future__ import annotations

import hashlib
import logging
import stat
from pathlib import Path

import msgspec
import pytest
from installation_world import REQUIREMENTS, Device, ListOfAll, make_bundle

from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.recovery import first_journal
from edge_agent.installation.verification import verify
from protocol.messages.kinds import InstallStatus, InstallStep
from runtime.errors import StorageError

pytestmark = pytest.mark.edge
HASH = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "install.json"


def test_the_journal_is_for_the_agents_user_alone(path: Path) -> None:
    JournalFile(path).save(Journal())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_journal_at_the_ends_of_its_bounds_is_read_back(path: Path) -> None:
    longest = BundleRef(release="r" * 200, sha256=HASH)
    journal = Journal(active=longest, committed=(BundleRef(release="r", sha256=HASH),))
    JournalFile(path).save(journal)
    assert JournalFile(path).load() == journal


@pytest.mark.parametrize(
    "content",
    [
        {"highest_counter": -1},
        {"active": {"release": "r" * 201, "sha256": HASH}},
        {"active": {"release": "", "sha256": HASH}},
        {"active": {"release": "r", "sha256": HASH[1:]}},
        {"active": {"release": "r", "sha256": HASH.upper()}},
        {"format": 2},
    ],
)
def test_a_journal_beyond_its_bounds_is_damaged_and_set_aside(path: Path, content: dict[str, object]) -> None:
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(StorageError, match=r"install\.json is damaged"):
        JournalFile(path).read()
    assert JournalFile(path).load() is None
    assert not path.exists()
    assert msgspec.json.decode(path.with_name("install.json.damaged").read_bytes()) == content


def test_a_damaged_journal_that_cannot_be_set_aside_is_said_with_both_reasons(path: Path) -> None:
    path.write_bytes(b"{")
    (path.with_name("install.json.damaged") / "a directory in the way").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"is damaged: .*; and it cannot be set aside: \w+"):
        JournalFile(path).load()


class FullAt(JournalFile):
    """A journal whose disk is full whenever `step` is to be written."""

    def __init__(self, path: Path, step: InstallStep) -> None:
        super().__init__(path)
        self._step = step

    def save(self, journal: Journal) -> None:
        if journal.step() is self._step:
            raise StorageError("cannot write install.json: No space left on device")
        super().save(journal)


@pytest.mark.parametrize("step", [InstallStep.DOWNLOADING, InstallStep.PROBING])
def test_work_whose_beginning_cannot_be_written_is_not_begun(path: Path, step: InstallStep) -> None:
    device = Device(path.parent, journal_file=FullAt(path, step))
    [report] = device.submit(device.fleet.offer(make_bundle(1), 1))
    assert (report.status, report.reason) == (
        InstallStatus.FAILED,
        "cannot write install.json: No space left on device",
    )
    assert device.probe.probed == [], "nothing is run that a restart would not know of"
    assert bool(device.fleet.requests) is (step is InstallStep.PROBING)


# --- the first journal -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles")


def put(store: BundleStore, content: bytes, release: str = "") -> BundleRef:
    sha256 = hashlib.sha256(content).hexdigest()
    store.adopt(sha256, content)
    return BundleRef(release=release or "none", sha256=sha256)


def test_the_bundle_of_the_highest_version_runs_on_trial_and_those_before_it_are_fallen_back_to(
    store: BundleStore,
) -> None:
    refs = {version: put(store, make_bundle(version), f"pump/{version}") for version in (2, 10, 9, 1)}
    journal = first_journal(store, ListOfAll(), REQUIREMENTS)
    assert (journal.active, journal.committed, journal.factory) == (refs[10], (refs[9], refs[2]), None)
    assert journal.attempt is not None
    assert (journal.attempt.step, journal.attempt.bundle) == (InstallStep.TRIAL, refs[10])
    assert journal.fallbacks() == (refs[9], refs[2])


def test_a_factory_bundle_stays_the_factorys_where_a_newer_one_runs(
    store: BundleStore, tmp_path: Path
) -> None:
    content = make_bundle(1)
    (tmp_path / "bundles" / "factory.fedge").write_bytes(content)
    newer = put(store, make_bundle(2), "pump/2")
    journal = first_journal(store, ListOfAll(), REQUIREMENTS)
    brought = BundleRef(release="pump/1", sha256=hashlib.sha256(content).hexdigest())
    assert (journal.active, journal.committed, journal.factory) == (newer, (), brought)
    assert journal.fallbacks() == (brought,), "where the newer one fails its trial"


def test_bundles_of_other_families_are_passed_over_however_new(store: BundleStore) -> None:
    for family in ("fan", "valve"):
        put(store, make_bundle(7, family=family))
    assert first_journal(store, ListOfAll(), REQUIREMENTS) == Journal()
    ours = put(store, make_bundle(1), "pump/1")
    assert first_journal(store, ListOfAll(), REQUIREMENTS).active == ours


def test_a_factory_bundle_that_nobody_has_listed_yet_runs_as_soon_as_it_is(tmp_path: Path) -> None:
    content = make_bundle(1)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "factory.fedge").write_bytes(content)
    device = Device(tmp_path, takes=[content])
    assert device.release is None
    device.installer.look_again()
    device.work()
    assert device.release is None
    device.listed.taken.clear()
    device.installer.look_again()
    device.work()
    assert (device.release, device.installer.step()) == ("pump/1", InstallStep.IDLE)
    device.install(2)
    device.installer.look_again()
    assert device.work() == [], "what runs is not disturbed by a longer list"
    device.restart()
    assert device.release == "pump/2"


@pytest.mark.parametrize("content", [b"worn out", make_bundle(7)], ids=["damaged", "not listed"])
def test_a_bundle_that_is_damaged_or_not_listed_is_passed_over_with_a_line_in_the_log(
    store: BundleStore, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    ours = put(store, make_bundle(1), "pump/1")
    bad = put(store, content)
    with caplog.at_level(logging.WARNING):
        assert first_journal(store, ListOfAll({bad.sha256}), REQUIREMENTS).active == ours
    (line,) = caplog.messages
    assert line.startswith(f"staged_bundle_unusable sha256={bad.sha256[:12]} error=")


# --- verification ----------------------------------------------------------------------------------------------------------------


def test_bytes_that_were_not_promised_are_refused_by_their_number_and_the_promised_hash() -> None:
    with pytest.raises(ReleaseRefusedError) as refusal:
        verify(b"seven b", "0123456789abcdef" * 4)
    assert str(refusal.value) == (
        "the bundle's 7 bytes do not have the SHA-256 0123456789ab… that was promised; it was altered or badly copied"
    )
