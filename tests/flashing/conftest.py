"""Bundles and lists that several tests look at; pip sees no index here, only the wheels beside the list."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import vendor_images
from tiny_wheels import tiny_list

from fleet.device_bundle.boards import Arch, Board
from fleet.device_bundle.making import make_bundle

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "joining"), str(TESTS / "fleet"), str(TESTS / "edge_agent")]

MADE_BY = {
    "trixie": vendor_images.raspberry_pi_os,
    "first trixie": lambda path: vendor_images.raspberry_pi_os(path, cloud_init=False),
    "bookworm": lambda path: vendor_images.raspberry_pi_os(path, "bookworm", cloud_init=False),
    "debian": vendor_images.debian_cloud,
}


@pytest.fixture(scope="package")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tiny_list(tmp_path_factory.mktemp("list"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_FIND_LINKS", str(path.parent))
        yield path


@pytest.fixture(scope="module")
def bundles(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle for each board that the tests know."""
    folder = tmp_path_factory.mktemp("bundles")
    for arch, python in (("arm64", "3.13"), ("arm64", "3.11"), ("amd64", "3.13")):
        make_bundle(listed, Board(arch=Arch(arch), python=python), folder / f"{arch}-{python}")
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for name, make in MADE_BY.items():
        make(folder / f"{name}.img")
    return folder
