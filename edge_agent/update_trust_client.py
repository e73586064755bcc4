"""python-tuf's client with our clock, our road and our disk: the only module that knows `tuf`.

`tuf.ngclient.Updater` decides what is believed, in which order, and what is older than what was seen. Three things are ours:

* **Time.** tuf asks the system clock by itself; a device without a battery has none. `reference_time` is set from `TrustedClock`.
* **Road.** `Read` gives a file by its name and bound; nothing is written to a temporary file.
* **Disk.** tuf writes each file as it comes and does not fsync. Here they are gathered, and kept together once all were believed.

What of tuf's inside is relied on is held by ``tests/edge_agent/test_trust_internals.py``.

Source: The Update Framework 1.0.33, section 5; python-tuf 7.0.1, `tuf.ngclient.updater` and `_internal.trusted_metadata_set`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Key, Metadata, Root, TargetFile, Targets, Timestamp
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edge_agent.errors import UpdateTrustError
from edge_agent.update_trust_files import TIMESTAMP
from protocol.bundle import TrustedKeys
from protocol.errors import IdentityError
from protocol.identity import load_public_key
from protocol.names import MAX_RELEASE_VERSION
from protocol.trust_roles import FLEET_ROLE, family_role, model_target

__all__ = ["LARGEST_BYTES", "Read", "Repository", "believe", "check_root"]

Read = Callable[[str, int], bytes | None]
"""Gives the file of this name, of at most so many bytes; None where there is none."""

LARGEST_BYTES: Final = 1024 * 1024
"""Of any metadata file: 2000 releases of a family. A device reads it into memory."""
LIMITS: Final = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=8,
    root_max_length=64 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=256 * 1024,
    targets_max_length=LARGEST_BYTES,
)
_BASE: Final = "trust/"
_SHOWN: Final = 300


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What a repository says to one family, as it was believed at one time.

    Attributes:
        files: name → content: all that is needed to believe it again from the pinned root.
        versions: role → version.
        ends_s: role → Unix seconds from which on it is not fresh any more.
        release_keys: whose signature the releases of the family bear.
        fleet_keys: whose instructions are obeyed.
        family_trouble: why nothing is known of the family's releases; empty: it is known.
    """

    files: Mapping[str, bytes]
    versions: Mapping[str, int]
    ends_s: Mapping[str, float]
    release_keys: TrustedKeys
    fleet_keys: tuple[EllipticCurvePublicKey, ...]
    family_trouble: str
    _client: _Client

    def listed(self, release: str) -> tuple[int, str] | None:
        """Length and SHA-256 of a release of the family; None where it is not listed, or without a SHA-256.

        Raises:
            UpdateTrustError: the metadata of its role are not known.
        """
        if self.family_trouble:
            raise UpdateTrustError(self.family_trouble)
        target = self._client.find(model_target(release))
        sha256 = target.hashes.get("sha256") if target is not None else None
        return None if target is None or sha256 is None else (target.length, sha256)


def check_root(root: bytes) -> int:
    """The version of a pinned root; raises UpdateTrustError where it is none, or does not sign itself."""
    try:
        found = Metadata[Root].from_bytes(root)
        found.verify_delegate(Root.type, found)
    except (RepositoryError, ValueError, TypeError, AttributeError) as error:
        raise UpdateTrustError(f"it is no root of a signed repository: {_words(error)}") from None
    return found.signed.version


def believe(
    root: bytes,
    family: str,
    read: Read,
    *,
    now_s: float | None,
    known: Mapping[str, bytes] = MappingProxyType({}),
    seen: dict[str, bytes] | None = None,
) -> Repository:
    """Walk from the pinned root to the releases of a family.

    Args:
        root: the pinned root.
        family: of this device; nothing of another is read.
        read: the repository's files.
        now_s: Unix seconds, the earliest that it can be; None: nothing has ended (for what was believed once already).
        known: files that were verified before, as the repository calls them; nothing older is believed now.
        seen: is given the files that were verified on the way, also where the end is not reached.

    Raises:
        UpdateTrustError: something is missing, not signed by whom it must be, older than before, or has ended.
        Exception: whatever `read` raises.
    """
    client = _Client(root, read, known, now_s)
    try:
        client.refresh()
    except (RepositoryError, DownloadError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise UpdateTrustError(f"the signed repository is not believed: {_words(error)}") from None
    finally:
        if seen is not None:
            seen.update(client.files())
    trouble = ""
    try:
        # A path that nobody lists leads through every role that may list a release of the family.
        client.find(model_target(f"{family}/{MAX_RELEASE_VERSION}"))
    except UpdateTrustError as error:
        trouble = f"the releases of {family} are not known: {error}"
    return client.repository(family, trouble)


class _Road(FetcherInterface):
    """tuf's port for fetching, without its temporary files."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """See `FetcherInterface`; what `read` raises passes through."""
        name = url.removeprefix(_BASE)
        content = self._read(name, max_length)
        if content is None:
            raise DownloadHTTPError(f"there is no {name}", 404)
        if len(content) > max_length:
            raise DownloadError(f"{name} has more than {max_length} bytes")
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, LARGEST_BYTES)


class _Client(Updater):
    """The walk; `known` and what it believes are by the names of the repository's files."""

    def __init__(self, root: bytes, read: Read, known: Mapping[str, bytes], now_s: float | None) -> None:
        self._roots: dict[int, bytes] = {}
        self._bytes: dict[str, bytes] = {}
        self._known = known

        def remembered(name: str, most_bytes: int) -> bytes | None:
            is_root = name.endswith(".root.json")
            return known[name] if is_root and name in known else read(name, most_bytes)

        # No folder: tuf finds no file of its own, and writes none.
        super().__init__(os.devnull, _BASE, fetcher=_Road(remembered), config=LIMITS, bootstrap=root)
        self._pinned = self._trusted_set.root.version
        self._trusted_set.reference_time = (
            datetime.min.replace(tzinfo=UTC) if now_s is None else datetime.fromtimestamp(now_s, UTC)
        )

    def find(self, path: str) -> TargetFile | None:
        """A target; raises UpdateTrustError where the way to it is not known."""
        try:
            return self.get_targetinfo(path)
        except (RepositoryError, DownloadError, ValueError, LookupError, TypeError) as error:
            raise UpdateTrustError(_words(error)) from None

    def repository(self, family: str, trouble: str) -> Repository:
        """What was believed."""
        trusted, role = self._trusted_set, family_role(family)
        targets = trusted.targets
        signed = {Root.type: trusted.root, **{name: trusted[name] for name in self._bytes if name in trusted}}
        keys = [Ed25519PublicKey.from_public_bytes(raw) for raw in _ed25519(targets, role)]
        return Repository(
            files=self.files(),
            versions={name: one.version for name, one in signed.items()},
            ends_s={name: one.expires.timestamp() for name, one in signed.items()},
            release_keys=TrustedKeys(keys),
            fleet_keys=tuple(_p256(targets, FLEET_ROLE)),
            family_trouble=trouble,
            _client=self,
        )

    def files(self) -> dict[str, bytes]:
        """What was verified so far, under the repository's names: the way from the pinned root, and the roles."""
        found = {f"{n}.root.json": data for n, data in self._roots.items() if n > self._pinned}
        for name, data in self._bytes.items():
            if name in self._trusted_set:
                found[_file_name(name, self._trusted_set[name].version)] = data
        return found

    def _load_local_metadata(self, rolename: str) -> bytes:
        data = self._bytes.get(rolename) or self._known.get(self._known_name(rolename))
        if data is None:
            raise FileNotFoundError(rolename)
        self._bytes[rolename] = data
        return data

    def _known_name(self, rolename: str) -> str:
        if rolename == Timestamp.type:
            return TIMESTAMP
        ending = f"{quote(rolename, '')}.json"
        return next((name for name in self._known if name.partition(".")[2] == ending), "")

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        self._bytes[rolename] = data

    def _persist_root(self, version: int, data: bytes) -> None:
        self._roots[version] = data

    def _update_root_symlink(self) -> None:
        """No file, no link."""


def _file_name(role: str, version: int) -> str:
    return TIMESTAMP if role == Timestamp.type else f"{version}.{quote(role, '')}.json"


def _keys(targets: Targets, role: str) -> list[Key]:
    """The keys of a delegation that has files or none; the same key counts once, whatever it is called."""
    delegations = targets.delegations
    found = (delegations.roles or {}).get(role) if delegations is not None else None
    if delegations is None or found is None:
        return []
    return [delegations.keys[identifier] for identifier in found.keyids if identifier in delegations.keys]


def _ed25519(targets: Targets, role: str) -> Iterator[bytes]:
    for key in _keys(targets, role):
        if (key.keytype, key.scheme) == ("ed25519", "ed25519"):
            raw = bytes.fromhex(str(key.keyval.get("public", "")))
            if len(raw) == 32:
                yield raw


def _p256(targets: Targets, role: str) -> Iterator[EllipticCurvePublicKey]:
    for key in _keys(targets, role):
        with suppress(IdentityError):  # another curve or kind of key: nobody is obeyed by it
            yield load_public_key(str(key.keyval.get("public", "")).encode())


def _words(error: BaseException) -> str:
    """What tuf says, in one line."""
    cause = f" ({error.__cause__})" if isinstance(error, RepositoryError) and error.__cause__ else ""
    text = " ".join(f"{error}{cause}".split())[:_SHOWN] or type(error).__name__
    return f"{text} by this device's clock" if isinstance(error, ExpiredMetadataError) else text
