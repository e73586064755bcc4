"""``fedge-agent check-config``: does what the device has learnt and runs fit what its source delivers?"""

from __future__ import annotations

from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation.active import read_active
from edge_agent.outdated_state import foreign_state
from edge_agent.settings import StatePaths
from models.columns import describe_difference
from protocol.manifest import FeatureSpec
from runtime.errors import StorageError

__all__ = ["misfits"]


def misfits(paths: StatePaths, columns: FeatureSpec) -> list[str]:
    """What does not fit a source of these columns, a sentence each; reads only."""
    found = []
    foreign, difference = foreign_state(paths, columns)
    if foreign:
        names = ", ".join(path.name for path in foreign)
        found.append(
            f"the source's columns are not those of {names} in {paths.root}: {difference};"
            " the next start sets them aside and commissions anew"
        )
    try:
        active = read_active(paths.install_journal, paths.bundles)
    except (StorageError, ReleaseRefusedError) as error:
        return [*found, f"the installed release cannot be used: {error}"]
    if active is not None and (difference := describe_difference(active.bundle.manifest.features, columns)):
        found.append(
            f"{active.release} was made for other features than the source gives: {difference}; nothing will be judged"
        )
    return found
