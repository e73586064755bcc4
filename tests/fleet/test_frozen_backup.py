"""A backup of issue 17's first plant (golden/plant_backup.v1.tar.xz) is restored by every later build: plant.toml, settings, database."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest
from rollout_world import RolloutWorld

from aggregator.settings import load_aggregator_settings
from fleet.audit import read_lines
from fleet.audit_chain import verify
from fleet.backups.restoring import restore_backup
from fleet.backups.sealing import MAGIC, Unsealer
from fleet.rollouts.states import RolloutState
from fleet.settings import load_fleet_settings

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.slow
def test_a_backup_of_version_1_becomes_a_plant_whose_settings_and_database_are_read(tmp_path: Path) -> None:
    file = tmp_path / "plant.backup"
    file.write_bytes(lzma.decompress((GOLDEN / "plant_backup.v1.tar.xz").read_bytes()))
    file.chmod(0o600)
    restored = restore_backup(file, tmp_path / "plant", passphrase=lambda: "")
    plant = restored.plant
    assert (plant.tenant, plant.description.host, restored.listed.schema) == ("acme", "localhost", "0024")
    assert (restored.aftermath.devices, restored.aftermath.paused) == (12, ("ro-1",))
    assert load_aggregator_settings(plant.aggregator_config, {}).tenant == "acme"
    fleet = load_fleet_settings(plant.fleet_config, {})
    world = RolloutWorld(fleet.effective_database_url, fresh=False)
    assert world.view("ro-1").state is RolloutState.PAUSED
    with world.database.read() as session:
        assert verify(read_lines(session)).id > restored.listed.audit_entries
    world.close()


def test_a_seal_of_version_1_opens() -> None:
    sealed = bytes.fromhex((GOLDEN / "sealed_backup.v1.hex").read_text())
    assert sealed.startswith(MAGIC)
    source = io.BytesIO(sealed[len(MAGIC) :])
    assert Unsealer(source, "a sentence that only we know").read() == bytes(range(256)) * 8
