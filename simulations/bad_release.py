"""A harmful release with a valid signature: what a rollout has to survive.

Signatures say who made a release, not that it is good. This one is version 2's model with a threshold so low that
nearly every window counts as anomalous, signed with the world's real release key. Where the mixture judges, it takes the prior out and
lets that model judge: a prior that claims that no healthy machine ever alarms is not believed by a device that has counted itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from aggregator.release_keys import read_private_key
from models.bundles import PRIOR_FILE
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle
from protocol.manifest import Provenance

__all__ = ["harmful_release"]

HARM: Final = 0.02
"""The threshold is multiplied by this; a device may correct it by a factor of two at most."""


def harmful_release(good: bytes, *, version: int, signing_key: Path, now: float) -> bytes:
    """Return the bundle `good` again as `version`, with a harmful threshold, signed by the key in `signing_key`."""
    key = read_private_key(signing_key, "signing_key")
    opened = open_bundle(good, TrustedKeys([key.public_key()]))
    threshold = opened.manifest.threshold
    files = {name: content for name, content in opened.files.items() if name != PRIOR_FILE}
    manifest = msgspec.structs.replace(
        opened.manifest,
        version=version,
        detector="network",
        files=entries_for(files),
        created_at=now,
        threshold=msgspec.structs.replace(threshold, score=threshold.score * HARM),
        provenance=Provenance(trigger="simulation: a harmful release", parent=opened.manifest.release),
    )
    return pack_bundle(manifest, files, key)
