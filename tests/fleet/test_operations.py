"""Back up, upgrade, restore, uninstall: played by the words of docs/operations.md, with the published wheel and a device that watches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_wheel import install_wheel
from played_pages import ROOT, read_blocks
from published import publish
from shell_people import Person, hand_made_device, plant_up
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]

BLOCKS = {block.heading: block for block in read_blocks(ROOT / "docs" / "operations.md")}
DEVICE = "valve-1"


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    published = publish(tmp_path / "published")
    made = Person(tmp_path / "home", install_wheel(published, tmp_path / "environment"))
    (made.folder / published.wheel.name).write_bytes(published.wheel.read_bytes())
    with plant_up(made):
        yield made


def test_a_plant_is_backed_up_upgraded_restored_and_uninstalled_and_its_device_obeys_throughout(
    person: Person,
) -> None:
    with hand_made_device(person, DEVICE, family="valve"):
        assert "sealed" in person.plays(BLOCKS["Back up"])
        assert (person.folder / "plant.backup").stat().st_mode & 0o777 == 0o600
        person.sets(DEVICE, 2.0)  # the backup does not know of it
        counter = person.sees(DEVICE)["commands_counter"]

        told = person.plays(BLOCKS["Upgrade"])
        assert told.count("schema") >= 4
        assert "AGAINST" not in told
        wait_until(lambda: person.sees(DEVICE)["online"], "the device to be back after the upgrade")
        person.sets(DEVICE, 3.0)

        told = person.plays(BLOCKS["Restore"])
        assert "devices that were revoked since are let in again" in told
        assert "1 device," in told
        wait_until(lambda: person.sees(DEVICE)["online"], "the device to be back after the restore")
        person.sets(DEVICE, 4.0)
        assert person.sees(DEVICE)["commands_counter"] > counter, "nothing went back"
        audit = person.asks("fedge-fleet", "audit", "list")
        assert "backup_restored" in {line["action"] for line in audit}
    person.plays(BLOCKS["Uninstall"])
    assert sorted(path.name for path in person.folder.iterdir() if path.is_dir()) == ["former", DEVICE]
    assert not (Path(person.environment["HOME"]) / "bin" / "fedge").exists()
    assert person.types("python", "-c", "import importlib.util as i; print(i.find_spec('fleet'))") == "None\n"
