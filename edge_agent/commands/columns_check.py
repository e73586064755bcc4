"""``fedge-agent check-config``: what the source says now, and whether what the device has learnt and runs fits it."""

from __future__ import annotations

from edge_agent.errors import ReleaseRefusedError, SourceError
from edge_agent.installation.active import read_active
from edge_agent.outdated_state import foreign_state
from edge_agent.settings import StatePaths
from edge_agent.sources.port import Source
from edge_agent.sources.sampled import SampledSource
from models.columns import describe_difference
from protocol.manifest import FeatureSpec
from runtime.errors import StorageError

__all__ = ["first_look", "misfits"]


def first_look(source: Source) -> list[str]:
    """What a machine on a wire says at this moment, or why it says nothing: a sentence. Nothing of any other source."""
    if not isinstance(source, SampledSource):
        return []
    try:
        return [source.look()]
    except SourceError as error:
        return [f"not now: {error}; the agent goes on asking"]


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
