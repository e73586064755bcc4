"""``fedge-aggregator publish`` and ``release-again``: a person hands a release to the fleet, or signs an old one's content anew."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from aggregator.errors import ExportFailedError
from aggregator.publishing import open_fleet
from aggregator.release_keys import read_private_key, read_public_key
from aggregator.settings import load_aggregator_settings
from protocol.bundle import TrustedKeys, open_bundle, pack_bundle
from protocol.errors import ProtocolError
from protocol.limits import MAX_BUNDLE_BYTES
from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = ["publish_bundle", "sign_again"]


def publish_bundle(bundle: Path, config: Path) -> None:
    """Upload and list a bundle as the aggregator that `config` describes; again: nothing changes.

    Raises:
        SettingsError: a file cannot be read, or is larger than a bundle can be.
        ExportFailedError: it is no bundle that one of this aggregator's keys signed.
        FleetError, UntrustedListError: as `PublishingFleet.publish`.
    """
    settings = load_aggregator_settings(config)
    content = _read_bundle(bundle)
    key = read_private_key(settings.signing_key, "signing_key")
    former = [read_public_key(path, "release_keys") for path in settings.release_keys]
    with closing(open_fleet(settings, key, former)) as fleet:
        try:
            fleet.publish(content)
        except ProtocolError as error:
            raise ExportFailedError(f"{bundle} cannot be published: {error}") from None


def sign_again(
    bundle: Path, release_key: Path, signing_key: Path, version: int, out: Path, *, now: float
) -> str:
    """Write the content of `bundle`, which `release_key` signed, as `version` signed by `signing_key`; says what it wrote.

    Raises:
        SettingsError: a file or key cannot be used, or `out` is there already.
        ExportFailedError: the bundle is none that `release_key` signed, or the number is no version.
        StorageError: it cannot be written.
    """
    if out.exists():
        raise SettingsError(f"{out} exists; choose another --out")
    key = read_private_key(signing_key, "--signing-key")
    try:
        opened = open_bundle(
            _read_bundle(bundle), TrustedKeys([read_public_key(release_key, "--release-key")])
        )
        former = opened.manifest
        provenance = msgspec.structs.replace(
            former.provenance, trigger="released again", parent=former.release
        )
        manifest = msgspec.structs.replace(former, version=version, created_at=now, provenance=provenance)
        content = pack_bundle(manifest, opened.files, key)
        made = open_bundle(content, TrustedKeys([key.public_key()])).manifest.release
    except ProtocolError as error:
        raise ExportFailedError(f"{bundle} cannot be released again: {error}") from None
    write_durably(out, content, exclusive=True)
    return f"{out} is {made}: the content of {former.release}, signed anew; hand it in with: fedge-aggregator publish"


def _read_bundle(bundle: Path) -> bytes:
    try:
        with bundle.open("rb") as file:
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read the bundle {bundle}: {error.strerror or error}") from None
    if len(content) > MAX_BUNDLE_BYTES:
        raise SettingsError(
            f"{bundle} has more than {MAX_BUNDLE_BYTES} bytes, the most that a bundle can have"
        )
    return content
