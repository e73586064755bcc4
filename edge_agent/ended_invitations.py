"""Invitations that this device has seen end: a copy of one, sent once more over the broker, is not followed.

They are signed like any other and may not have expired. A run that goes on after a restart of the aggregator is invited to anew,
which is another invitation. A handful is enough: what is older has expired.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from protocol.messages.payloads import TrainingInvitation
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["EndedInvitations"]

log: Final = logging.getLogger(__name__)

KEPT: Final = 64


class EndedInvitations:
    """The last of them, on disk.

    Args:
        path: the file; what cannot be read counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[str] = []
        try:
            self._names = msgspec.json.decode(read_bytes(path) or b"[]", type=list[str])
        except (StorageError, msgspec.DecodeError) as error:
            log.warning("ended_invitations_not_read error=%s", error)

    def __contains__(self, invitation: object) -> bool:
        """Whether this very invitation has ended."""
        return isinstance(invitation, TrainingInvitation) and _name(invitation) in self._names

    def add(self, invitation: TrainingInvitation) -> None:
        """It was cleared, or another took its place."""
        if invitation in self:
            return
        self._names = [*self._names, _name(invitation)][-KEPT:]
        try:
            private_directory(self._path.parent)
            write_durably(self._path, msgspec.json.encode(self._names), mode=0o600)
        except StorageError as error:
            log.warning("ended_invitations_not_saved error=%s", error)


def _name(invitation: TrainingInvitation) -> str:
    # Not the signature, which can be written in two ways.
    return f"{invitation.run_id}@{invitation.issued_at!r}"
