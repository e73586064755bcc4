"""A device's trust over a repository in memory: real files, a clock to turn, a road to cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trust_repository import NOW_S, TrustRepository

from edge_agent import update_trust_files
from edge_agent.errors import FleetNotFoundError, FleetUnreachableError
from edge_agent.update_trust import Fetched, UpdateTrust
from edge_agent.update_trust_files import TrustFiles
from runtime.durable_files import write_durably
from runtime.errors import StorageError


class TrustDevice:
    """`restart` is what a new process does; `asked` is what was fetched."""

    def __init__(self, root: Path, repository: TrustRepository) -> None:
        self.folder, self.repository = root / "trust", repository
        self.now_s, self.boot_s, self.is_away = NOW_S, 100.0, False
        self.asked: list[str] = []
        self.trust = self._open()

    def restart(self) -> None:
        self.patches.undo()
        self.trust = self._open()

    def fetch(self, name: str, most_bytes: int, etag: str = "") -> Fetched:
        self.asked.append(name)
        if self.is_away:
            raise FleetUnreachableError("the fleet refused the connection")
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
