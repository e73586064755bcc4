"""A vendor's image becomes a device's card: what is in it, whose it is, and that nothing else was touched."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import vendor_images
from card_world import HOST_READ_ONLY, KEY, card_toml, flash, join_file
from command_line import run_command


def owner_and_mode(card: Path, path: str) -> tuple[str, str, str]:
    place = f"{card}?offset={vendor_images.ext4_offset(card)}"
    said = vendor_images.run("debugfs", "-R", f"stat {path}", place).decode()
    found = re.search(r"Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", said, re.DOTALL)
    assert found is not None, path
    return found[2], found[3], found[1]


@pytest.mark.parametrize(
    ("name", "python", "how"),
    [
        ("trixie", "3.13", "Raspberry Pi OS (trixie) for valve-1 by cloud-init on the boot partition"),
        ("bookworm", "3.11", "Raspberry Pi OS (bookworm) for valve-1 by firstrun.sh"),
        ("first trixie", "3.13", "Raspberry Pi OS (trixie) for valve-1 by firstrun.sh"),
        ("debian", "3.13", "Debian GNU/Linux 13 (trixie) for valve-1 by cloud-init's seed"),
    ],
)
def test_each_known_system_gets_the_agent_the_join_file_and_a_unit(
    tmp_path: Path, bases: Path, bundles: Path, name: str, python: str, how: str
) -> None:
    base = bases / f"{name}.img"
    before = hashlib.sha256(base.read_bytes()).hexdigest()
    done = flash(tmp_path, base=base, bundle=bundles / f"arm64-{python}")
    assert done.returncode == 0, done.stderr
    assert how in done.stdout
    assert "nobody may log in" in done.stdout
    assert hashlib.sha256(base.read_bytes()).hexdigest() == before, "the base image is only read"
    card = tmp_path / "card.img"
    root = vendor_images.extract_root(card, tmp_path / "root")
    first = root / "var/lib/fedge/first-boot"
    assert (first / "device.join").read_bytes() == (tmp_path / "valve-1.join").read_bytes()
    assert "fedge-agent join device.join --source /dev/ttyUSB0" in (first / "join").read_text()
    assert (
        root / f"opt/fedge/lib/python{python}/site-packages/board_part.py"
    ).read_text() == "WHERE = 'aarch64'\n"
    assert (root / "opt/fedge/bin/python").readlink() == Path(f"/usr/bin/python{python}")
    wants = root / "etc/systemd/system/multi-user.target.wants/fedge-first-boot.service"
    assert wants.readlink() == Path("../fedge-first-boot.service")
    unit = (wants.parent.parent / wants.name).read_text()
    assert "ConditionPathExists=/var/lib/fedge/first-boot/device.join" in unit
    assert "Type=oneshot" not in unit, "the boot waits for no network"
    for path, mode in {
        "/var/lib/fedge/first-boot": "0700",
        "/var/lib/fedge/first-boot/device.join": "0600",
        "/var/lib/fedge/first-boot/join": "0700",
        "/var/lib/fedge": "0755",
        "/opt/fedge/bin/fedge-agent": "0755",
        "/opt/fedge/pyvenv.cfg": "0644",
        "/etc/systemd/system/fedge-first-boot.service": "0644",
    }.items():
        assert owner_and_mode(card, path) == ("0", "0", mode), path
    vendor_images.run("e2fsck", "-fn", f"{card}?offset={vendor_images.ext4_offset(card)}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.img", "root", "valve-1.join"], (
        "nothing is left beside it"
    )


def test_cloud_init_on_the_boot_partition_is_told_all_that_a_person_wants(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    words = ("--settings", str(card_toml(tmp_path)))
    done = flash(tmp_path, *words, base=bases / "trixie.img", bundle=bundles / "arm64-3.13")
    assert done.returncode == 0, done.stderr
    assert "nobody" not in done.stdout
    card = tmp_path / "card.img"
    head, _, document = vendor_images.on_boot(card, "user-data").decode().partition("\n")
    assert head == "#cloud-config"
    told = json.loads(document)
    assert (told["hostname"], told["timezone"], told["ssh_pwauth"]) == ("valve-1", "Europe/Berlin", False)
    (user,) = told["users"]
    assert (user["name"], user["lock_passwd"], user["ssh_authorized_keys"]) == ("ann", True, [KEY])
    network = json.loads(vendor_images.on_boot(card, "network-config"))["network"]
    radio = network["wifis"]["wlan0"]
    assert radio["regulatory-domain"] == "DE"
    assert radio["access-points"] == {'Hall 2: "north"': {"password": 'pass "word" $HOME\'s'}}
    cmdline = vendor_images.on_boot(card, "cmdline.txt").decode()
    assert cmdline.endswith(" rootwait quiet cfg80211.ieee80211_regdom=DE\n")
    assert cmdline.count("\n") == 1
    assert vendor_images.on_boot(card, "meta-data") == b"instance_id: rpios-image\n", "the vendor's own stays"


def test_firstrun_calls_the_vendors_programs_with_the_words_as_they_were_said(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    words = ("--settings", str(card_toml(tmp_path)))
    done = flash(tmp_path, *words, base=bases / "bookworm.img", bundle=bundles / "arm64-3.11")
    assert done.returncode == 0, done.stderr
    card = tmp_path / "card.img"
    cmdline = vendor_images.on_boot(card, "cmdline.txt").decode()
    assert cmdline.startswith("console=serial0,115200")
    assert cmdline.count("\n") == 1
    assert cmdline.endswith(" systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n")
    script = vendor_images.on_boot(card, "firstrun.sh").decode()
    stub = tmp_path / "stub"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stub.chmod(0o755)
    for program in ("/usr/lib/raspberrypi-sys-mods/imager_custom", "/usr/lib/userconf-pi/userconf"):
        assert program in script
        script = script.replace(program, str(stub))
    (tmp_path / "cmdline.txt").write_text(cmdline)
    (tmp_path / "firstrun.sh").write_text(script.replace("/boot/", f"{tmp_path}/"))
    ran = subprocess.run(["bash", str(tmp_path / "firstrun.sh")], capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        ["set_hostname", "valve-1"],
        ["enable_ssh", "-k", KEY],
        ["ann", "*"],
        ["set_wlan", 'Hall 2: "north"', 'pass "word" $HOME\'s', "DE"],
        ["set_timezone", "Europe/Berlin"],
    ]
    assert not (tmp_path / "firstrun.sh").exists(), "it runs once"
    assert (tmp_path / "cmdline.txt").read_text().strip() == cmdline.partition(" systemd.run")[0]


def test_debians_seed_is_roots_alone(tmp_path: Path, bases: Path, bundles: Path) -> None:
    toml = card_toml(tmp_path)
    toml.write_text(toml.read_text().partition("[wifi]")[0])
    done = flash(tmp_path, "--settings", str(toml), base=bases / "debian.img", bundle=bundles / "arm64-3.13")
    assert done.returncode == 0, done.stderr
    root = vendor_images.extract_root(tmp_path / "card.img", tmp_path / "root")
    seed = root / "var/lib/cloud/seed/nocloud"
    assert (seed / "meta-data").read_text() == "instance-id: fedge-valve-1-4000000000\n"
    assert json.loads((seed / "user-data").read_text().partition("\n")[2])["users"][0]["name"] == "ann"
    assert owner_and_mode(tmp_path / "card.img", "/var/lib/cloud/seed/nocloud/user-data") == (
        "0",
        "0",
        "0600",
    )


def test_a_source_that_is_a_file_comes_along_and_no_word_of_it_is_a_command(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    source = tmp_path / "plc $(reboot).toml"
    source.write_text("[source]\n")
    done = flash(tmp_path, base=bases / "trixie.img", bundle=bundles / "arm64-3.13", source=str(source))
    assert done.returncode == 0, done.stderr
    root = vendor_images.extract_root(tmp_path / "card.img", tmp_path / "root")
    first = root / "var/lib/fedge/first-boot"
    assert (first / source.name).read_text() == "[source]\n"
    line = next(line for line in (first / "join").read_text().splitlines() if "--source" in line)
    assert shlex.split(line)[-1] == f"/var/lib/fedge/first-boot/{source.name}"


def test_a_packed_image_is_unpacked_on_the_way(tmp_path: Path, bases: Path, bundles: Path) -> None:
    packed = tmp_path / "base.img.xz"
    packed.write_bytes(lzma.compress((bases / "trixie.img").read_bytes(), preset=0))
    done = flash(tmp_path, base=packed, bundle=bundles / "arm64-3.13")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "card.img").stat().st_size == (bases / "trixie.img").stat().st_size
    packed.write_bytes(packed.read_bytes()[:-1000])
    (tmp_path / "card.img").unlink()
    done = flash(tmp_path, base=packed, bundle=bundles / "arm64-3.13")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is damaged" in done.stderr
    assert not (tmp_path / "card.img").exists()


def test_fifty_cards_are_one_command_with_a_claim_each(tmp_path: Path, bases: Path, bundles: Path) -> None:
    for number in (1, 2, 3):
        join_file(tmp_path, f"valve-{number}")
    words = [
        "--join",
        f"{tmp_path}/valve-{{}}.join",
        "--out",
        f"{tmp_path}/card-{{}}.img",
        "--image",
        str(bases / "trixie.img"),
    ]
    words += ["--bundle", str(bundles / "arm64-3.13"), "--source", "/dev/ttyUSB0"]
    manifest = tmp_path / "cards.rpi-imager-manifest"
    done = run_command("fleet", "flash", *words, "--count", "3", "--manifest", str(manifest))
    assert done.returncode == 0, done.stderr
    claims = set()
    for number in (1, 2, 3):
        card = tmp_path / f"card-{number}.img"
        root = vendor_images.extract_root(card, tmp_path / f"root-{number}")
        claims.add(json.loads((root / "var/lib/fedge/first-boot/device.join").read_text())["claim"])
        assert f'"hostname": "valve-{number}"' in vendor_images.on_boot(card, "user-data").decode()
    assert len(claims) == 3
    for entry, number in zip(json.loads(manifest.read_text())["os_list"], (1, 2, 3), strict=True):
        card = tmp_path / f"card-{number}.img"
        assert entry["url"] == card.as_uri()
        assert entry["extract_size"] == entry["image_download_size"] == card.stat().st_size
        assert entry["extract_sha256"] == hashlib.sha256(card.read_bytes()).hexdigest()
        assert entry["init_format"] == "none", "it is customised already"
        assert {"name", "description", "icon", "release_date"} <= set(entry)
    done = run_command("fleet", "flash", *words, "--count", "5")
    assert "2 join files are missing" in done.stderr
    assert "fedge device add valve-4 valve-5" in done.stderr
    join_file(tmp_path, "valve-2", claim="claim-of-valve-1")
    done = run_command("fleet", "flash", *words, "--count", "3")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "each card needs a claim of its own" in done.stderr


def test_an_ordinary_user_without_rights_makes_a_card_that_is_roots(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    join = join_file(tmp_path)
    inside = [
        *HOST_READ_ONLY,
        "--tmpfs",
        "/tmp",  # noqa: S108 - an empty one of its own
        "--unshare-user",
        "--uid",
        "1234",
    ]
    inside += ["--gid", "1234", "--unshare-net", "--cap-drop", "ALL"]
    for folder in {bases, bundles, tmp_path}:
        inside += ["--bind", str(folder), str(folder)]
    words = ["--join", str(join), "--image", str(bases / "trixie.img"), "--out", str(tmp_path / "card.img")]
    words += ["--bundle", str(bundles / "arm64-3.13"), "--source", "/dev/ttyUSB0"]
    command = [*inside, sys.executable, "-m", "fleet", "flash", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert owner_and_mode(tmp_path / "card.img", "/opt/fedge/bin/fedge-agent") == ("0", "0", "0755")
