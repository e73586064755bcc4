"""The champion: the release in force of a family, fetched and verified before anything is built upon it.

In force is what most of its devices shall run: after an undo that is the release that they were given back, and not the
newest one, which nobody runs any more. Versions are another matter: they count on from everything ever published.

The fleet is not trusted to say what a model is: the bundle's signature is checked against the aggregator's own release
keys, and its manifest must name the release that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import structlog
from numpy.typing import NDArray

from aggregator.errors import ChampionError
from aggregator.rounds.ports import ReleaseFleet, ReleaseRecord
from aggregator.rounds.trust_region import anchor_release
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import ProtocolError
from protocol.names import FamilyName

__all__ = ["choose_champion", "fetch_anchor", "fetch_champion", "next_version", "read_champion"]

_log = structlog.get_logger()


def choose_champion(releases: Iterable[ReleaseRecord]) -> ReleaseRecord | None:
    """What most devices shall run of `releases`, of equals the newest; never a withdrawn one. None where none is left.

    >>> first, undone = (ReleaseRecord(release=f"pump/{v}", version=v, desired_devices=n) for v, n in ((1, 4), (2, 0)))
    >>> choose_champion([first, undone]).release
    'pump/1'
    """
    standing = (record for record in releases if not record.is_withdrawn)
    return max(standing, key=lambda record: (record.desired_devices, record.version), default=None)


def fetch_champion(
    fleet: ReleaseFleet, family: FamilyName, trusted: TrustedKeys
) -> tuple[bytes, ModelBundle]:
    """The release in force: its bytes, and what they hold.

    Raises:
        ChampionError: there is no release yet, all are withdrawn, or its bundle is not the one a trusted key signed.
        FleetError: it could not be fetched.
    """
    releases = fleet.releases(family)
    chosen = choose_champion(releases)
    if chosen is None:
        withdrawn = f" that is not withdrawn (of {len(releases)})" if releases else ""
        raise ChampionError(
            f"the fleet holds no release of family {family!r}{withdrawn}; publish version {next_version(fleet, family)} first (fedge-aggregator initial-release)"
        )
    content = fleet.bundle(family, chosen.version)
    bundle = read_champion(content, trusted)
    if bundle.manifest.release != chosen.release:
        raise ChampionError(
            f"the fleet hands out {bundle.manifest.release!r} as {chosen.release!r}; its store is damaged"
        )
    return content, bundle


def fetch_anchor(fleet: ReleaseFleet, champion: ModelBundle, trusted: TrustedKeys) -> NDArray[np.float32]:
    """Parameters (P,) of the release that devices of the champion hold on to, by `trust_region.anchor_release`.

    The champion's own where there is no other, or none that could be read: the champion was trained within reach of it.

    Raises:
        FleetError: it could not be fetched.
    """
    manifest = champion.manifest
    found = anchor_release(fleet.releases(FamilyName(manifest.family)), manifest.release)
    if found is None:
        return champion.parameters
    try:
        anchor = read_champion(fleet.bundle(FamilyName(manifest.family), found.version), trusted)
    except ChampionError as error:
        _log.warning("anchor_unreadable", release=found.release, reason=str(error))
        return champion.parameters
    is_same = anchor.architecture.layout_sha256 == champion.architecture.layout_sha256
    return anchor.parameters if is_same else champion.parameters


def read_champion(content: bytes, trusted: TrustedKeys) -> ModelBundle:
    """Verify and open a bundle; raises ChampionError with the reason."""
    try:
        return read_bundle(open_bundle(content, trusted))
    except (ProtocolError, ModelError) as error:
        raise ChampionError(f"the fleet's release in force cannot be trained from: {error}") from None


def next_version(fleet: ReleaseFleet, family: FamilyName) -> int:
    """The version after the newest ever published, withdrawn or not; 1 where there is none."""
    return 1 + max((record.version for record in fleet.releases(family)), default=0)
