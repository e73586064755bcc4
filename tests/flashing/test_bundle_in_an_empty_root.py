"""The real bundles, in a Debian that holds Python and nothing else: amd64 without a network or anything to write to, arm64 emulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.device_bundle.archive import MOST_BYTES, read_bundle, unpack_bundle
from fleet.device_bundle.boards import Arch, Board
from fleet.device_bundle.making import make_bundle
from fleet.plant.agent_requirements import write_agent_requirements

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
PACKAGES = "base-files,dash,coreutils,python3,libstdc++6,media-types"
OF_OTHER_EXTRAS = {"torch", "opacus", "pkcs11", "asyncua", "pymodbus"}
IMPORTS = """
import importlib, json, os, pkgutil, sys
ours, waiting = [], []
for name in ("runtime", "protocol", "models", "edge_agent", "fedge"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
            ours.append(module.name)
        except ModuleNotFoundError as error:
            waiting.append(error.name.split(".")[0])
site = next(path for path in sys.path if path.endswith("site-packages"))
beside = []
for name in sorted(os.listdir(site)):
    first = name.split(".")[0]
    if first.isidentifier() and (name.endswith((".py", ".so")) or os.path.isfile(os.path.join(site, name, "__init__.py"))):
        importlib.import_module(first)
        beside.append(first)
print(json.dumps({"ours": ours, "waiting": waiting, "beside": beside, "prefix": sys.prefix}))
"""


needs_a_debian = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mmdebstrap") is None, reason="unpacks a Debian: root, mmdebstrap"
)


def empty_debian(folder: Path, suite: str, arch: str, bundle: Path) -> Path:
    """Python, libstdc++6 and the bundle, and nothing else."""
    root = folder / "root"
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--arch={arch}", f"--include={PACKAGES}"]
    subprocess.run([*command, suite, str(root)], check=True, capture_output=True)
    tree = root / "opt" / "fedge"
    tree.mkdir(parents=True)
    unpack_bundle(read_bundle(bundle), tree)
    (root / "imports.py").write_text(IMPORTS)
    return root


def look_at(command: list[str]) -> None:
    """Import everything, and start the agent, by what `command` enters the root with."""
    imported = [*command, "/opt/fedge/bin/python", "-P", "/imports.py"]
    done = subprocess.run(imported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["prefix"] == "/opt/fedge"
    assert len(found["ours"]) > 250
    assert set(found["waiting"]) <= OF_OTHER_EXTRAS
    assert {"numpy", "ai_edge_litert", "cryptography", "flwr", "grpc", "tuf"} <= set(found["beside"])
    version = [*command, "/opt/fedge/bin/fedge-agent", "--version"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout.startswith(
        "fedge-agent "
    )


@needs_a_debian
def test_everything_imports_in_an_empty_debian_and_two_bundles_are_one(tmp_path: Path) -> None:
    listed, board = tmp_path / "list" / "agent-requirements.txt", Board(arch=Arch.AMD64, python="3.11")
    write_agent_requirements(listed)
    first, second = (make_bundle(listed, board, tmp_path / name) for name in ("a", "b"))
    assert first.size_bytes <= MOST_BYTES
    assert first.path.read_bytes() == second.path.read_bytes()
    root = empty_debian(tmp_path, "bookworm", "amd64", first.path)
    inside = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all"]
    inside += ["--uid", "65532", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]
    look_at([*inside, "--setenv", "OPENBLAS_NUM_THREADS", "1"])


@needs_a_debian
def test_everything_imports_on_an_emulated_board(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "edge_environment"))
    from arm64_root import ThisHost, enter, require_emulation

    require_emulation(ThisHost(), print)
    listed, board = tmp_path / "list" / "agent-requirements.txt", Board(arch=Arch.ARM64, python="3.13")
    write_agent_requirements(listed)
    made = make_bundle(listed, board, tmp_path / "a")
    assert made.size_bytes <= MOST_BYTES
    look_at(enter(empty_debian(tmp_path, "trixie", "arm64", made.path), "cortex-a72"))
