"""What no card can be made of is refused in one line, and nothing half-written is left."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import vendor_images
from card_world import card_toml, flash, join_file
from command_line import run_command


def refused(folder: Path, said: str, done: subprocess.CompletedProcess[str], status: int = 2) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert said in done.stderr
    assert not (folder / "card.img").exists()
    assert not list(folder.glob(".card*")), "nothing half-written is left"


@pytest.mark.parametrize(
    ("bundle", "said"),
    [
        (
            "amd64-3.13",
            "is for arm64, and BUNDLE for amd64: fedge-fleet bundle --arch arm64 --python 3.13 --out",
        ),
        (
            "arm64-3.11",
            "has Python 3.13, and BUNDLE is for Python 3.11: fedge-fleet bundle --arch arm64 --python 3.13",
        ),
    ],
)
def test_a_bundle_for_another_board_is_refused_with_the_command_that_makes_the_right_one(
    tmp_path: Path, bases: Path, bundles: Path, bundle: str, said: str
) -> None:
    done = flash(tmp_path, base=bases / "trixie.img", bundle=bundles / bundle)
    refused(tmp_path, said.replace("BUNDLE", str(bundles / bundle)), done)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 whatever"), "is a zip archive: unzip it"),
        (lambda path: path.write_bytes(b"QFI\xfb" + bytes(600)), "is a qcow2 disk: qemu-img convert -O raw"),
        (lambda path: path.write_bytes(bytes(9999)), "is no disk image: it has no partition table"),
        (
            lambda path: vendor_images.debian_cloud(path, "noble"),
            "is Ubuntu 24.04.3 LTS, and how that is customised at its first boot is not known",
        ),
        (
            lambda path: vendor_images.raspberry_pi_os(path, arch="armhf"),
            "is not for arm64 or amd64 (32-bit systems have no LiteRT)",
        ),
        (
            lambda path: vendor_images.debian_cloud(path, missing="usr/bin/python{python}"),
            "has no Python that an agent runs on: it has none",
        ),
        (
            lambda path: vendor_images.debian_cloud(path, missing="usr/lib/aarch64-linux-gnu/libstdc++.so.6"),
            "has no libstdc++6",
        ),
        (
            lambda path: vendor_images.debian_cloud(path, missing="usr/lib/os-release"),
            "holds no Linux on ext4",
        ),
    ],
)
def test_an_image_that_no_agent_can_be_put_on_is_refused_by_its_name(
    tmp_path: Path, bundles: Path, make: object, said: str
) -> None:
    base = tmp_path / "base.img"
    make(base)  # type: ignore[operator] # one of the makers above
    refused(tmp_path, said, flash(tmp_path, base=base, bundle=bundles / "arm64-3.13"))


def test_a_card_that_was_made_here_is_no_base_image(tmp_path: Path, bases: Path, bundles: Path) -> None:
    assert flash(tmp_path, base=bases / "trixie.img", bundle=bundles / "arm64-3.13").returncode == 0
    (tmp_path / "card.img").rename(tmp_path / "base.img")
    done = flash(tmp_path, base=tmp_path / "base.img", bundle=bundles / "arm64-3.13")
    refused(tmp_path, "was flashed before (it has /opt/fedge): start from the vendor's image", done)


def test_a_root_without_room_is_told_before_anything_is_written(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    large = tmp_path / "rec.csv"
    large.write_bytes(os.urandom(60_000_000))
    done = flash(tmp_path, base=bases / "trixie.img", bundle=bundles / "arm64-3.13", source=str(large))
    refused(
        tmp_path,
        "MB free in its root file system, and the agent needs 62 MB: take a base image with more room",
        done,
        status=1,
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('timezone = "Mars/Olympus"', "timezone 'Mars/Olympus' is none that Raspberry Pi OS (trixie) knows"),
        ('user = "Ann"\nssh_key_files = "ann.pub"', "user 'Ann' is none: small letters"),
        ('user = "ann"', "user and ssh_key_files go together: nobody logs in without a key"),
        ('user = "ann"\nssh_key_files = "card.toml"', "is no public key of SSH"),
        ('hostname = "-valve"', "'-valve' cannot be a machine's name"),
        ('colour = "red"', "unknown key 'colour'"),
        (
            '[wifi]\nssid = "x"\ncountry = "Germany"\npassword_file = "wifi.secret"',
            "country 'Germany' is none: two capital letters",
        ),
        (
            '[wifi]\nssid = "x"\ncountry = "DE"\npassword_file = "short.secret"',
            "5 characters; WPA takes 8 to 63",
        ),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, bases: Path, bundles: Path, more: str, said: str
) -> None:
    toml = card_toml(tmp_path)
    (tmp_path / "short.secret").touch(mode=0o600)
    (tmp_path / "short.secret").write_text("12345")
    toml.write_text(more + "\n")
    refused(
        tmp_path,
        said,
        flash(tmp_path, "--settings", str(toml), base=bases / "trixie.img", bundle=bundles / "arm64-3.13"),
    )


def test_a_cloud_image_has_no_wifi(tmp_path: Path, bases: Path, bundles: Path) -> None:
    words = ("--settings", str(card_toml(tmp_path)))
    done = flash(tmp_path, *words, base=bases / "debian.img", bundle=bundles / "arm64-3.13")
    refused(tmp_path, "knows no Wi-Fi", done)


def test_a_join_file_is_no_source_and_never_lies_where_another_is(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    other = join_file(tmp_path, "device")
    done = flash(tmp_path, base=bases / "trixie.img", bundle=bundles / "arm64-3.13", source=str(other))
    refused(tmp_path, "is called like a join file, which --join takes", done)


@pytest.mark.parametrize("source", ["-", "rec.csv", "nonsense"])
def test_a_source_that_a_device_cannot_have_is_refused(
    tmp_path: Path, bases: Path, bundles: Path, source: str
) -> None:
    done = flash(tmp_path, base=bases / "trixie.img", bundle=bundles / "arm64-3.13", source=source)
    refused(tmp_path, f"--source {source if source == '-' else repr(source)}", done)


def test_a_join_file_that_lets_nobody_in_any_more_is_refused(
    tmp_path: Path, bases: Path, bundles: Path
) -> None:
    path = join_file(tmp_path, "pump-1", ends_s=1e9)
    words = ["--join", str(path), "--image", str(bases / "trixie.img"), "--out", str(tmp_path / "card.img")]
    done = run_command(
        "fleet", "flash", *words, "--bundle", str(bundles / "arm64-3.13"), "--source", "/dev/ttyUSB0"
    )
    refused(
        tmp_path,
        "let pump-1 in until 2001-09-09 01:46 UTC: fedge device add pump-1, and take the new file",
        done,
    )


def test_a_base_image_that_is_not_there_is_one_line_also_where_the_card_is(
    tmp_path: Path, bundles: Path
) -> None:
    (tmp_path / "card.img").write_bytes(b"of yesterday")
    done = flash(tmp_path, base=tmp_path / "nowhere.img", bundle=bundles / "arm64-3.13")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere.img: there is no such file" in done.stderr
    assert (tmp_path / "card.img").read_bytes() == b"of yesterday"
