"""What the learner reads from the device's files before it joins: invitation and active bundle.

Reading only. The agent and its installer go on writing meanwhile; their files are replaced atomically, so what is
read here is one state or the next, never half of one. The bundle is verified again: hashes, meaning.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.errors import NotReadyError, ReleaseRefusedError
from edge_agent.installation.active import read_active
from edge_agent.settings import StatePaths
from models.bundles import ModelBundle
from protocol.messages.payloads import TrainingInvitation
from runtime.durable_files import read_bytes
from runtime.errors import StorageError

__all__ = ["read_active_bundle", "read_invitation"]


def read_invitation(path: Path) -> TrainingInvitation:
    """The invitation that the agent left for its learner (JSON of `TrainingInvitation`).

    Raises:
        NotReadyError: there is none, or it does not parse.
    """
    content = read_bytes(path)
    if content is None:
        raise NotReadyError(f"there is no invitation at {path}")
    try:
        return msgspec.json.decode(content, type=TrainingInvitation)
    except msgspec.DecodeError as error:
        raise NotReadyError(f"{path} holds no training invitation: {error}") from None


def read_active_bundle(paths: StatePaths) -> ModelBundle:
    """The bundle that detection runs now, verified again.

    Raises:
        NotReadyError: no release is installed, or its file no longer verifies.
    """
    try:
        active = read_active(paths.install_journal, paths.bundles)
    except (StorageError, ReleaseRefusedError) as error:
        raise NotReadyError(f"the active release cannot be used: {error}") from None
    if active is None:
        raise NotReadyError("no release is installed yet; there is no model to train")
    return active.bundle
