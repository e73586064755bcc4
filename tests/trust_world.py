"""A signed repository for tests, with every key at hand, and a real TUF client that stands for a device."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from aggregator.release_listing import ListedFile, sign_list
from fleet.errors import NotFoundError
from fleet.trust.creation import create_repository
from fleet.trust.repository import TrustRepository
from protocol.trust_roles import family_role, model_target

_generate = Ed25519PrivateKey.generate


@dataclass(kw_only=True)
class Keys:
    """Every key of a repository."""

    root: list[Ed25519PrivateKey] = field(default_factory=lambda: [_generate() for _ in range(3)])
    targets: Ed25519PrivateKey = field(default_factory=_generate)
    online: list[Ed25519PrivateKey] = field(default_factory=lambda: [_generate() for _ in range(2)])
    families: dict[str, Ed25519PrivateKey] = field(default_factory=lambda: {"motor": _generate()})
    agent: Ed25519PrivateKey = field(default_factory=_generate)
    fleet: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))


def make_repository(data_dir: Path, keys: Keys | None = None, *, now: float | None = None) -> TrustRepository:
    """A published repository in ``data_dir/trust``, without a release."""
    keys = keys or Keys()
    return create_repository(
        data_dir / "trust",
        root_keys=keys.root,
        targets_key=keys.targets,
        online_keys=keys.online,
        families={family: [key.public_key()] for family, key in keys.families.items()},
        fleet_key=keys.fleet.public_key(),
        agent_key=keys.agent.public_key(),
        now=time.time() if now is None else now,
    )


def next_list(
    repository: TrustRepository,
    bundles: Mapping[str, bytes],
    key: Ed25519PrivateKey,
    *,
    now: float | None = None,
) -> tuple[str, str, bytes]:
    """The next list of one family with `bundles` (release id → bytes) beside what is listed: its role, file name and content."""
    at = time.time() if now is None else now
    (role,) = {family_role(release.split("/")[0]) for release in bundles}
    known = repository.published().roles.get(role)
    files = {
        path.removeprefix("models/").removesuffix(".fedge"): ListedFile(
            sha256=file.hashes["sha256"], length=file.length
        )
        for path, file in (known.signed.targets if known else {}).items()
    }
    files |= {
        release: ListedFile(sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        for release, content in bundles.items()
    }
    version = known.signed.version + 1 if known else 1
    return role, f"{version}.{role}.json", sign_list(files, version, key, at)


def list_bundles(
    repository: TrustRepository,
    bundles: Mapping[str, bytes],
    key: Ed25519PrivateKey,
    *,
    now: float | None = None,
) -> None:
    """Publish a list of `bundles` (release id → bytes) of one family, beside what its list holds already."""
    at = time.time() if now is None else now
    _, name, content = next_list(repository, bundles, key, now=at)
    repository.publish({name: content}, at)


class OneDevice(FetcherInterface):
    """A real TUF client with its own folder; `files` stands in for what a server hands out in the repository's place."""

    def __init__(self, folder: Path, repository: TrustRepository) -> None:
        self.folder = folder
        self.served: TrustRepository = repository
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._root = repository.read("1.root.json")
        folder.mkdir(exist_ok=True)

    def refresh(self) -> Updater:
        """As a device does at its check; raises as the library does."""
        client = Updater(str(self.folder), "memory:///", fetcher=self, bootstrap=self._root)
        client.refresh()
        return client

    def find(self, release: str) -> TargetFile | None:
        return self.refresh().get_targetinfo(model_target(release))

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("memory:///")
        self.asked.append(name)
        try:
            return iter((self.files[name] if name in self.files else self.served.read(name),))
        except NotFoundError as error:
            raise DownloadHTTPError(str(error), 404) from None
