"""A device's trust over a repository in memory or behind a real HTTPS server: real files, a clock to turn, a road to cut."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from https_world import Reply, Request, serving
from trust_repository import NOW_S, TrustRepository

from edge_agent import update_trust_files
from edge_agent.errors import FleetNotFoundError, FleetUnreachableError
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.update_trust import Fetch, Fetched, UpdateTrust
from edge_agent.update_trust_files import TrustFiles
from runtime.durable_files import write_durably
from runtime.errors import StorageError


class TrustDevice:
    """`restart` is what a new process does; `asked` is what was fetched; `road` takes the place of a fleet in memory."""

    def __init__(self, root: Path, repository: TrustRepository, road: Fetch | None = None) -> None:
        self.folder, self.repository, self.road = root / "trust", repository, road
        self.now_s, self.boot_s, self.is_away = NOW_S, 100.0, False
        self.asked: list[str] = []
        self.replies: dict[str, Reply] = {}
        self.trust = self._open()

    def restart(self) -> None:
        self.patches.undo()
        self.trust = self._open()

    def fetch(self, name: str, most_bytes: int, etag: str = "") -> Fetched:
        self.asked.append(name)
        if self.is_away:
            raise FleetUnreachableError("the fleet refused the connection")
        if self.road is not None:
            return self.road(name, most_bytes, etag)
        if name not in self.repository.files:
            raise FleetNotFoundError(f"there is no {name}", status=404)
        content = self.repository.files[name]
        mine = f'"{hash(content)}"'
        return Fetched(content=None if etag == mine else content, etag=mine)

    def refuse_writes(self) -> None:
        def full(path: Path, content: bytes) -> None:
            raise StorageError(f"cannot write {path}: No space left on device")

        self._write_with(full)

    def cut_power_after(self, files: int) -> None:
        left = [files]

        def write(path: Path, content: bytes) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            write_durably(path, content)

        self._write_with(write)

    def _write_with(self, write: Callable[[Path, bytes], None]) -> None:
        self.patches.setattr(update_trust_files, "write_durably", write)

    @property
    def versions(self) -> dict[str, int]:
        """Role → version of what is believed."""
        believed = self.trust._believed
        return dict(believed.versions) if believed is not None else {}

    @property
    def known_root(self) -> int:
        """The newest root that it ever followed, also where the rest was not believed."""
        roots = [int(name.split(".")[0]) for name in self.trust._ahead if name.endswith(".root.json")]
        return max([self.versions.get("root", 1), *roots])

    def _open(self) -> UpdateTrust:
        self.patches = pytest.MonkeyPatch()
        return UpdateTrust(
            root=self.repository.pinned,
            files=TrustFiles(self.folder),
            family=self.repository.family_name,
            fetch=self.fetch,
            earliest_s=lambda: self.now_s,
            boot_s=lambda: self.boot_s,
        )


@contextmanager
def https_device(root: Path, repository: TrustRepository) -> Iterator[TrustDevice]:
    """The same over a real TLS server and the agent's own client; `replies` takes a file's place, by its name."""
    device: TrustDevice

    def answer(request: Request) -> Reply:
        name = unquote(request.path.removeprefix("/v1/trust/"))
        if name in device.replies:
            return device.replies[name]
        content = device.repository.files.get(name)
        if content is None:
            return Reply(404, b'{"title": "there is no such file"}')
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        is_known = request.headers.get("if-none-match") == etag
        return Reply(304 if is_known else 200, b"" if is_known else content, {"ETag": etag})

    with serving(root / "tls", answer) as server:
        endpoint = FleetEndpoint(url=server.url, ca_file=server.ca_file, timeout_s=5.0)
        key = ec.generate_private_key(ec.SECP256R1())
        client = FleetClient(endpoint=endpoint, device="pump-07", key=key)
        device = TrustDevice(root, repository, client.trust_file)
        yield device
