"""Proves that a fleet needs the `fleet` extra alone: builds that environment, weighs it, and serves from it.

    python tests/edge_environment/prove_fleet.py [--fresh]

The environment lies in ``.venv-fleet`` and is built anew when pyproject.toml or constraints.txt changed (or with --fresh).
The project is installed as a person does it (``pip install '.[fleet]'``), not linked to this checkout. Exit code 0 means proved.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx
from edge_packages import CONSTRAINTS, ROOT, fingerprint, last_words
from virtual_environment import VirtualEnvironment

MAXIMUM_BYTES: Final = 250_000_000
"""Of the whole environment, its own pip included."""

PACKAGES: Final = ("runtime", "protocol", "service", "models", "fleet")
ABSENT: Final = ("flwr", "tensorflow", "torch", "ai_edge_litert", "ai_edge_quantizer", "scipy", "amqtt")

CHECK_ABSENT: Final = """
import importlib.util, sys
def is_here(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
found = [name for name in sys.argv[1:] if is_here(name)]
sys.exit(f"found in the fleet environment: {', '.join(found)}" if found else 0)
"""

IMPORT_ALL: Final = """
import importlib, pkgutil
import fleet, protocol, runtime, service
count = 0
for package in (runtime, protocol, service, fleet):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def main() -> int:
    """Build, weigh, look, import, serve; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fresh", action="store_true", help="build the environment anew")
    started = time.monotonic()
    environment = VirtualEnvironment(ROOT / ".venv-fleet")
    try:
        sources = sorted(path.stat().st_mtime_ns for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
        environment.build(
            fingerprint(sys.version, str(sources)), install, say, is_fresh=options.parse_args().fresh
        )
        weigh(environment.folder)
        with tempfile.TemporaryDirectory() as elsewhere:
            environment.run("-c", CHECK_ABSENT, *ABSENT, folder=Path(elsewhere))
            count = environment.run("-c", IMPORT_ALL, folder=Path(elsewhere)).strip()
            say(
                f"all {count} modules of runtime, protocol, service and fleet import without {', '.join(ABSENT)}"
            )
            serve_once(environment, Path(elsewhere))
    except (subprocess.CalledProcessError, AssertionError) as error:
        outputs = [error.stdout, error.stderr] if isinstance(error, subprocess.CalledProcessError) else []
        say("not proved: " + (last_words(outputs) or str(error)))
        return 1
    say(f"proved in {time.monotonic() - started:.0f} s")
    return 0


def install(environment: VirtualEnvironment) -> None:
    """The fleet extra, copied and not linked, so that nothing of the checkout leaks in."""
    environment.install("-c", str(CONSTRAINTS), f"{ROOT}[fleet]")


def weigh(folder: Path) -> None:
    """Raises AssertionError where the environment is bigger than promised."""
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= MAXIMUM_BYTES, (
        f"{folder.name} has {size / 1e6:.0f} MB, more than {MAXIMUM_BYTES / 1e6:.0f} MB"
    )
    say(f"{size / 1e6:.0f} MB, of {MAXIMUM_BYTES / 1e6:.0f} MB at most")


def serve_once(environment: VirtualEnvironment, folder: Path) -> None:
    """Start ``fedge-fleet serve`` on loopback and ask it something that only an operator may know."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "fleet.toml"
    config.write_text(
        f'listen = "{address}"\ndata_dir = "data"\ntenant = "demo"\n[mqtt]\nurl = "mqtt://127.0.0.1:1"\n'
    )
    command = str(environment.folder / "bin" / "fedge-fleet")
    made = subprocess.run(
        [command, "tokens", "create", "--role", "viewer", "--name", "prover", "--config", str(config)],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    log = folder / "fleet.log"
    with log.open("wb") as sink:
        served = subprocess.Popen(
            [command, "serve", "--config", str(config)], stdout=sink, stderr=sink, cwd=folder
        )
    try:
        while not (answer := ask(f"http://{address}/v1/devices", made.stdout.strip())):
            assert served.poll() is None, f"it ended: {last_words([log.read_text()])}"
            time.sleep(0.1)
    finally:
        served.terminate()
        served.wait()
    assert json.loads(answer)["items"] == []
    say("fedge-fleet serve answers an operator")


def ask(url: str, token: str) -> bytes | None:
    """The body of a GET, or None while nobody listens."""
    try:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    except httpx.TransportError:
        return None
    assert answer.is_success, f"{url} answered {answer.status_code}: {answer.text[:200]}"
    return answer.content


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-fleet: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
