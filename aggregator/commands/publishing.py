"""``fedge-aggregator publish``: a person hands a release to the fleet, as the aggregator does with what it has trained."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from aggregator.errors import ExportFailedError
from aggregator.publishing import open_fleet
from aggregator.release_keys import read_private_key, read_public_key
from aggregator.settings import load_aggregator_settings
from protocol.errors import ProtocolError
from protocol.limits import MAX_BUNDLE_BYTES
from runtime.errors import SettingsError

__all__ = ["publish_bundle"]


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
