"""Which disks may be written: a kernel's own telling of a laptop with a card reader, in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run_command

from fleet.commands.flashing import write_card
from fleet.flashing import disks
from fleet.flashing.disks import Disk, Surroundings, look_at_disk
from runtime.errors import SettingsError


class Laptop:
    """nvme0n1 with / on LVM, /boot and swap; sdb, a reader with a card; sdc, a reader without one; mmcblk0, write-protected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices: dict[str, tuple[int, int]] = {}
        self.disk("nvme0n1", (259, 0), 1_000_000, model="Samsung SSD 980", removable="0")
        self.partition("nvme0n1", "nvme0n1p1", (259, 1))
        self.partition("nvme0n1", "nvme0n1p2", (259, 2), holder="dm-0")
        self.disk("dm-0", (253, 0), 900_000, model="", removable="0")
        self.disk("sdb", (8, 16), 62_333_952, model="STORAGE DEVICE", removable="1")
        self.partition("sdb", "sdb1", (8, 17))
        self.disk("sdc", (8, 32), 0, model="STORAGE DEVICE", removable="1")
        self.disk("mmcblk0", (179, 0), 1000, model="SD64G", removable="0", ro="1")
        self.mounts = [
            "28 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw",
            "30 28 259:1 / /boot rw - ext4 /dev/nvme0n1p1 rw",
        ]
        self.swaps = ["Filename Type Size Used Priority"]

    def disk(
        self, name: str, number: tuple[int, int], sectors: int, *, model: str, removable: str, ro: str = "0"
    ) -> None:
        place = self.folder / "sys/devices" / name
        (place / "device").mkdir(parents=True)
        (place / "size").write_text(f"{sectors}\n")
        (place / "ro").write_text(ro)
        (place / "removable").write_text(removable)
        (place / "dev").write_text("{}:{}\n".format(*number))
        (place / "device/model").write_text(f"{model}   \n")
        self._known(name, number, place)

    def partition(self, disk: str, name: str, number: tuple[int, int], holder: str = "") -> None:
        place = self.folder / "sys/devices" / disk / name
        (place / "holders").mkdir(parents=True)
        (place / "partition").write_text("1\n")
        (place / "dev").write_text("{}:{}\n".format(*number))
        if holder:
            (place / "holders" / holder).mkdir()
        self._known(name, number, place)

    def _known(self, name: str, number: tuple[int, int], place: Path) -> None:
        for link in (
            self.folder / "sys/dev/block" / "{}:{}".format(*number),
            self.folder / "sys/class/block" / name,
        ):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(place)
        self.devices[name] = number
        (self.folder / name).touch()

    def look(self, name: str) -> Disk:
        proc = self.folder / "proc"
        (proc / "self").mkdir(parents=True, exist_ok=True)
        (proc / "self/mountinfo").write_text("\n".join(self.mounts) + "\n")
        (proc / "swaps").write_text("\n".join(self.swaps) + "\n")
        around = Surroundings(
            sys=self.folder / "sys", proc=proc, numbers=lambda path: self.devices.get(path.name)
        )
        return look_at_disk(self.folder / name, around)


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def test_a_card_that_nothing_uses_is_told_by_model_and_size(laptop: Laptop) -> None:
    disk = laptop.look("sdb")
    assert (disk.name, disk.size_bytes, disk.is_removable) == ("sdb", 62_333_952 * 512, True)
    assert str(disk).endswith("sdb: STORAGE DEVICE, 31.9 GB, removable")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nvme0n1",
            r"is a disk that this machine runs from \(/dev/(nvme0n1p1 is /boot|dm-0 is /)\): nothing was written",
        ),
        ("nvme0n1p1", "is a partition: the image has its own, so give the whole disk /dev/nvme0n1"),
        ("sdc", "holds no card: put one in"),
        ("mmcblk0", "is write-protected: look for the switch on the card"),
    ],
)
def test_what_must_not_be_written_is_refused(laptop: Laptop, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        laptop.look(name)


def test_what_is_made_of_a_disks_partition_counts_as_the_disk(laptop: Laptop) -> None:
    laptop.mounts = laptop.mounts[:1]
    with pytest.raises(SettingsError, match=r"runs from \(/dev/dm-0 is /\)"):
        laptop.look("nvme0n1")
    laptop.mounts = []
    with pytest.raises(SettingsError, match=r"in use by dm-0 \(RAID, LVM or encryption\)"):
        laptop.look("nvme0n1")


@pytest.mark.parametrize("number", ["8:17", "0:51"])
def test_a_mounted_card_is_refused_with_what_to_do(laptop: Laptop, number: str) -> None:
    # btrfs shows a number of its own, and the device as what is mounted
    laptop.mounts.append(f"99 28 {number} / /media/ann/a\\040card rw - vfat /dev/sdb1 rw")
    with pytest.raises(
        SettingsError, match=r"in use: /dev/sdb1 is mounted at /media/ann/a card: umount /media/ann/a card"
    ):
        laptop.look("sdb")


def test_a_swap_is_a_disk_that_the_machine_runs_from(laptop: Laptop) -> None:
    laptop.swaps.append("/dev/sdb1 partition 1000 0 -2")
    with pytest.raises(SettingsError, match=r"runs from \(/dev/sdb1 is its swap\)"):
        laptop.look("sdb")


def test_a_file_or_nothing_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "card.img").touch()
    with pytest.raises(SettingsError, match=r"card\.img is no disk \(an image goes to --out\); lsblk lists"):
        look_at_disk(tmp_path / "card.img")
    with pytest.raises(SettingsError, match=r"nowhere: No such file or directory; lsblk lists"):
        look_at_disk(tmp_path / "nowhere")


def test_this_machines_own_disk_is_refused() -> None:
    source = next(
        line.split()
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    )
    place = Path("/sys/dev/block") / source[2]
    if not place.exists():  # a container's root is no disk: nothing of that kind can be written by mistake
        assert source[2].startswith("0:")
        return
    node = Path("/dev") / place.resolve().name
    if node.exists():
        with pytest.raises(SettingsError, match=r"is a partition|runs from"):
            look_at_disk(node)


def test_flash_says_it_in_one_line(tmp_path: Path) -> None:
    done = run_command(
        "fleet", "flash", "--join", str(tmp_path / "valve-1.join"), "--bundle", "b", "--device", "/dev/sdb"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "1 join files are missing" in done.stderr


def test_a_disk_that_came_in_the_place_of_the_one_that_was_named_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Disk(
        path=tmp_path / "sdb",
        name="sdb",
        size_bytes=32_000_000_000,
        model="STORAGE DEVICE",
        is_removable=True,
    )
    backup = replace(named, size_bytes=4_000_000_000_000, model="Backup")
    monkeypatch.setattr(disks, "look_at_disk", lambda _path: backup)
    (tmp_path / "sdb").write_bytes(b"years of work")
    (tmp_path / "card.img").write_bytes(b"image")
    with pytest.raises(
        SettingsError, match=r"another disk by now than the one that was named.*nothing was written"
    ):
        write_card(tmp_path / "card.img", named)
    assert (tmp_path / "sdb").read_bytes() == b"years of work"
