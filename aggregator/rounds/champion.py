"""The champion: the fleet's newest release of a family, fetched and verified before anything is built upon it.

The fleet is not trusted to say what a model is: the bundle's signature is checked against the aggregator's own release
keys, and its manifest must name the release that was asked for.
"""

from __future__ import annotations

from aggregator.errors import ChampionError
from aggregator.rounds.ports import ReleaseFleet
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import ProtocolError
from protocol.names import FamilyName

__all__ = ["fetch_champion", "next_version", "read_champion"]


def fetch_champion(
    fleet: ReleaseFleet, family: FamilyName, trusted: TrustedKeys
) -> tuple[bytes, ModelBundle]:
    """The newest release: its bytes, and what they hold.

    Raises:
        ChampionError: there is no release yet, or its bundle is not the one a trusted key signed.
        FleetError: it could not be fetched.
    """
    releases = [record for record in fleet.releases(family) if not record.is_withdrawn]
    if not releases:
        raise ChampionError(
            f"the fleet holds no release of family {family!r}; publish version 1 first (fedge-aggregator initial-release)"
        )
    newest = max(releases, key=lambda record: record.version)
    content = fleet.bundle(family, newest.version)
    bundle = read_champion(content, trusted)
    if bundle.manifest.release != newest.release:
        raise ChampionError(
            f"the fleet hands out {bundle.manifest.release!r} as {newest.release!r}; its store is damaged"
        )
    return content, bundle


def read_champion(content: bytes, trusted: TrustedKeys) -> ModelBundle:
    """Verify and open a bundle; raises ChampionError with the reason."""
    try:
        return read_bundle(open_bundle(content, trusted))
    except (ProtocolError, ModelError) as error:
        raise ChampionError(f"the fleet's newest release cannot be trained from: {error}") from None


def next_version(fleet: ReleaseFleet, family: FamilyName) -> int:
    """The version after the newest; 1 where there is none."""
    return 1 + max((record.version for record in fleet.releases(family)), default=0)
