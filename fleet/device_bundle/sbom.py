"""The bill of materials of a device bundle: every file of it, its hash, and the wheel that it came in (CycloneDX 1.6, JSON).

Nothing in it depends on when or where it was made: the serial number is drawn from the content.

Source: ECMA-424, CycloneDX 1.6; purl-spec, type pypi.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Any, Final

from fleet.device_bundle.boards import Board
from fleet.device_bundle.licences import licence_of
from fleet.device_bundle.tree import OURS, TreeFile
from fleet.device_bundle.wheels import Wheel

__all__ = ["SBOM", "bill_of_materials"]

SBOM: Final = "sbom.cdx.json"
_NAMESPACE: Final = uuid.UUID("5f0c6a9e-6a0e-5f0b-9c1d-3f6d1f2f7a10")


def bill_of_materials(files: Sequence[TreeFile], wheels: Sequence[Wheel], board: Board) -> bytes:
    """The document for a tree of `files`, itself not among them."""
    version = next((wheel.version for wheel in wheels if wheel.name == OURS), "")
    own = {
        "type": "application",
        "bom-ref": "made-with-the-bundle",
        "name": "what the bundle adds",
        "version": version,
        "components": [_file(file) for file in files if file.origin is None],
    }
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "fedge-device-bundle",
                "name": "fedge-device-bundle",
                "version": version,
                "properties": [
                    {"name": "fedge:arch", "value": board.arch.value},
                    {"name": "fedge:python", "value": board.python},
                ],
            }
        },
        "components": [own, *(_package(wheel, files) for wheel in wheels)],
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}"
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _package(wheel: Wheel, files: Sequence[TreeFile]) -> dict[str, Any]:
    purl = f"pkg:pypi/{wheel.name}@{wheel.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": wheel.name,
        "version": wheel.version,
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "licenses": [_licence(wheel)],
        "properties": [{"name": "fedge:wheel", "value": wheel.path.name}],
        "components": [_file(file) for file in files if file.origin is wheel],
    }


def _licence(wheel: Wheel) -> dict[str, Any]:
    if expression := wheel.metadata["License-Expression"]:
        return {"expression": str(expression)}
    return {"license": {"name": licence_of(wheel.metadata)}}


def _file(file: TreeFile) -> dict[str, Any]:
    if file.link is not None:
        return {"type": "file", "name": file.path, "properties": [{"name": "fedge:link", "value": file.link}]}
    sha256 = hashlib.sha256(file.content).hexdigest()
    return {"type": "file", "name": file.path, "hashes": [{"alg": "SHA-256", "content": sha256}]}
