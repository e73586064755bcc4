"""A list for Raspberry Pi Imager 2: finished images that it writes and verifies, and must not customise again.

Source: doc/json-schema/os-list-schema.json of raspberrypi/rpi-imager. It was not tried with that program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from fleet.device_bundle.boards import Arch
from fleet.flashing.base_images import BaseImage, FirstBoot

__all__ = ["SUFFIX", "imager_manifest"]

SUFFIX = ".rpi-imager-manifest"
"""What that program opens."""
_BOARDS = ["pi5-64bit", "pi4-64bit", "pi3-64bit"]


def imager_manifest(images: Mapping[Path, tuple[str, BaseImage]], today: date) -> bytes:
    """The list: image file → (device, what its base image was)."""
    entries = []
    for path, (device, base) in images.items():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        entry = {
            "name": f"Fedge: {device}",
            "description": f"{base.name} with the agent of {device}; joins its fleet at its first boot",
            "icon": "",
            "url": path.absolute().as_uri(),
            "extract_size": size,
            "extract_sha256": sha256,
            "image_download_size": size,
            "image_download_sha256": sha256,
            "release_date": today.isoformat(),
            "init_format": "none",
        }
        if base.first_boot is not FirstBoot.CLOUD_INIT_SEED and base.board.arch is Arch.ARM64:
            entry["devices"] = _BOARDS
        entries.append(entry)
    return json.dumps({"os_list": entries}, indent=2).encode() + b"\n"
