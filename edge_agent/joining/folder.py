"""The folder of a device that joined: what is pinned, agent.toml, and below it the state of the agent.

::

    valve-1/  agent.toml  ca.pem  root.json  aggregator.pub.pem  claim.token (until it is used)  agent.log
              state/      what `edge_agent.settings.StatePaths` says

Each file is wholly there or not at all, and agent.toml comes last: a kill between any two leaves a folder that joining again completes.
agent.toml says in its first line what it was when it was written; one that a person has changed since is the person's, and kept.
"""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.join_file import JoinFile
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError, StorageError

__all__ = ["JoinedFolder"]

_MARK: Final = "# Written by `fedge-agent join`; once you change it, it is yours and kept. "
_BOARD: Final = Path("/proc/device-tree/model")


@dataclass(frozen=True, kw_only=True)
class JoinedFolder:
    """Where one device's files lie; `path` is absolute."""

    path: Path

    @property
    def config(self) -> Path:
        """agent.toml."""
        return self.path / "agent.toml"

    @property
    def ca(self) -> Path:
        """The CA of the services."""
        return self.path / "ca.pem"

    @property
    def claim(self) -> Path:
        """The claim, mode 0600, until it is used."""
        return self.path / "claim.token"

    @property
    def log(self) -> Path:
        """What the agent says."""
        return self.path / "agent.log"

    @property
    def lock(self) -> Path:
        """Held by whoever keeps the agent running."""
        return self.path / "agent.lock"

    def pin(self, join: JoinFile) -> None:
        """Write what the device is to believe.

        Raises:
            SettingsError: the folder is another device's.
            StorageError: it cannot be written.
        """
        self._check_owner(join)
        private_directory(self.path)
        write_durably(self.path / ".gitignore", b"*\n")  # a key belongs into no repository
        write_durably(self.ca, join.ca.encode())
        write_durably(self.path / "root.json", join.root.encode())
        if join.aggregator_key is not None:
            write_durably(self.path / "aggregator.pub.pem", join.aggregator_key.encode())

    def keep_claim(self, join: JoinFile) -> None:
        """Write the claim, for enrolling; raises StorageError."""
        write_durably(self.claim, f"{join.claim}\n".encode(), mode=0o600)

    def write_config(
        self, join: JoinFile, tables: Mapping[str, dict[str, Any]] | None, hardware: str | None
    ) -> bool:
        """Write agent.toml; `tables` are its ``source`` and what belongs to that. Returns whether a person's own was kept instead.

        Raises:
            SettingsError: there is none yet and no source is given; or a person's own has another source than is given.
            StorageError: it cannot be written.
        """
        before = self._text()
        if tables is None:
            if before is None:
                raise SettingsError(
                    "say where this device's windows come from: --source rec.csv (or see --help)"
                )
            return not _is_ours(before)
        content = _config(join, tables, hardware)
        if before is not None and not _is_ours(before):
            if tomllib.loads(before).get("source") != tables["source"]:
                raise SettingsError(
                    f"{self.config} was changed by hand, and has another [source] than --source says: change it there, or remove the file"
                )
            return True
        if content != before:
            write_durably(self.config, content.encode())
        return False

    def _check_owner(self, join: JoinFile) -> None:
        text = self._text()
        if text is None:
            return
        found = tomllib.loads(text)
        theirs = {key: found.get(key) for key in ("tenant", "device", "family")}
        ours = {"tenant": join.tenant, "device": join.device, "family": join.family}
        if theirs != ours:
            said = ", ".join(f"{key} {value}" for key, value in theirs.items())
            raise SettingsError(
                f"{self.path} is the folder of another device ({said}): give --state DIR, a folder of its own"
            )

    def _text(self) -> str | None:
        content = read_bytes(self.config)
        if content is None:
            return None
        try:
            text = content.decode("utf-8-sig")
            tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise StorageError(
                f"{self.config} is not valid TOML ({error}): mend it, or remove it and join again"
            ) from None
        return text


def _config(join: JoinFile, tables: Mapping[str, dict[str, Any]], hardware: str | None) -> str:
    import tomli_w  # of the `edge` extra; the resident agent only reads TOML

    document: dict[str, Any] = {
        "state_dir": "state",
        "tenant": join.tenant,
        "device": join.device,
        "family": join.family,
        "hardware": hardware or _this_board(),
        "trust": {"root": "root.json"},
        "fleet": {"url": join.fleet_url, "ca_file": "ca.pem", "claim_token_file": "claim.token"},
        "mqtt": {"url": join.broker_url, "ca_file": "ca.pem"},
        **{name: table for name, table in tables.items() if table},
    }
    if join.aggregator_key is not None:
        host = {} if join.flower_host is None else {"host": join.flower_host}
        document["flower"] = {"ca_file": "ca.pem", "aggregator_key": "aggregator.pub.pem", **host}
    body = tomli_w.dumps(document)
    return f"{_MARK}{_digest(body)}\n{body}"


def _is_ours(text: str) -> bool:
    first, _, body = text.partition("\n")
    return first == f"{_MARK}{_digest(body)}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _this_board() -> str:
    """What kind of device this is, e.g. ``raspberry-pi-4-model-b``, or its processor: ``x86_64``."""
    try:
        said = _BOARD.read_text(errors="replace").strip("\0 \n")
    except OSError:
        said = ""
    name = re.sub(r"[^a-z0-9]+", "-", re.sub(r" rev .*", "", said.lower())).strip("-")
    return name[:60] or platform.machine() or "unknown"
