"""How releases and keys are named in the signed repository (TUF) that every device pins by its root.

::

    root (2 of 3, offline) ─► targets (offline) ─┬─► family-<family>   models/<family>/<version>.fedge   the aggregator's release key
                         ├─► snapshot (online)   ├─► agent             agent/*                           the key for agent software
                         └─► timestamp (online)  └─► fleet             no file                           the fleet's instruction key

`fleet` delegates no file: its keys are those whose instructions (`protocol.sealed_events`) devices obey, so that an offline key
says which they are, and can take one back.

Source: The Update Framework 1.0.33, sections 3 and 4.
"""

from __future__ import annotations

from typing import Final

from protocol.names import check_name, split_release_id

__all__ = ["AGENT_ROLE", "FLEET_ROLE", "family_role", "model_target"]

AGENT_ROLE: Final = "agent"
FLEET_ROLE: Final = "fleet"


def family_role(family: str) -> str:
    """The delegated role that signs the releases of a model family; raises TopicError for what is no name."""
    return f"family-{check_name(family, 'family')}"


def model_target(release: str) -> str:
    """The target path of a release ``family/version``; raises TopicError.

    >>> model_target("rotating-machine/2")
    'models/rotating-machine/2.fedge'
    """
    family, version = split_release_id(release)
    return f"models/{family}/{version}.fedge"
