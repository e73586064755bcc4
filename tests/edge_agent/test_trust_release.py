"""Whose word moves what training stays near to: a person's at the fleet, the owner's on the device, and nobody else's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import installation_world
import pytest
from agent_world import SPEC, healthy, make_bundle, write_device
from msgspec.structs import replace

from edge_agent.cli import main
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.learner.anchor import read_anchor
from edge_agent.settings import Settings, StatePaths, load_agent_settings

pytestmark = pytest.mark.edge


@pytest.fixture
def device(tmp_path: Path) -> Settings:
    """It had release 1 first, and runs release 2, which the aggregator signed and nobody approved."""
    settings = load_agent_settings(write_device(tmp_path, rows=healthy(10)))
    first, second = (_adopted(settings, version) for version in (1, 2))
    JournalFile(settings.paths.install_journal).save(
        Journal(active=second, committed=(second, first), factory=first)
    )
    return settings


def _adopted(settings: Settings, version: int) -> BundleRef:
    content = make_bundle(version)
    sha256 = hashlib.sha256(content).hexdigest()
    BundleStore(settings.paths.bundles).adopt(sha256, content)
    return BundleRef(release=f"pump/{version}", sha256=sha256)


def anchored(device: Settings) -> str:
    return read_anchor(device.paths).release


def test_the_owner_trusts_what_runs_by_a_command(
    device: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anchored(device) == "pump/1"
    assert anchored(device) == "pump/1", "however often it is asked"
    assert main(["trust-release", "--config", str(device.config_file)]) == 0
    assert "pump/2 is trusted instead of pump/1" in capsys.readouterr().out
    assert anchored(device) == "pump/2"
    assert read_anchor(device.paths).columns == SPEC.fingerprint
    assert main(["trust-release", "--config", str(device.config_file)]) == 0
    assert anchored(device) == "pump/2"


def test_there_must_be_a_release_to_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_device(tmp_path, rows=healthy(10))
    assert main(["trust-release", "--config", str(config)]) == 2
    assert "no release is installed; there is none to trust" in capsys.readouterr().err


def test_a_persons_word_at_the_fleet_moves_it_once_that_release_is_committed(tmp_path: Path) -> None:
    device = installation_world.Device(tmp_path)
    paths = StatePaths(tmp_path)
    for version in (1, 2, 3):
        wish = device.fleet.offer(installation_world.make_bundle(version), version, counter=100 + version)
        device.submit(replace(wish, is_approved=version == 3))
        if version == 3:
            assert read_anchor(paths).release == "pump/1", "it is on trial here"
        device.watch()
        assert read_anchor(paths).release == ("pump/3" if version == 3 else "pump/1")
