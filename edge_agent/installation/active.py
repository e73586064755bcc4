"""The release that detection runs: what the installer hands to the agent's loop, and what other processes may read.

A value, not a service: the bundle is verified and in memory, so that swapping a model is a change of reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.verification import verify
from models.bundles import ModelBundle
from protocol.messages.kinds import InstallStep

__all__ = ["ActiveRelease", "read_active"]


@dataclass(frozen=True, kw_only=True)
class ActiveRelease:
    """A verified release that shall be run now.

    Attributes:
        ref: its name and the SHA-256 of its file.
        bundle: its content, checked.
        generation: grows by one with every swap in this process; compare it to see that the model changed.
        is_trial: whether it still has to prove itself; False once it is committed.
    """

    ref: BundleRef
    bundle: ModelBundle
    generation: int
    is_trial: bool

    @property
    def release(self) -> str:
        """``family/version``."""
        return self.ref.release


def read_active(journal_file: Path, bundles: Path) -> ActiveRelease | None:
    """The active release as another process sees it (the learner, a status command); None while there is none.

    Takes no lock and changes nothing; the agent may swap right after.

    Raises:
        StorageError: the journal or the bundle cannot be read.
        ReleaseRefusedError: the bundle on disk does not verify.
    """
    journal = JournalFile(journal_file).read()
    if journal is None or journal.active is None:
        return None
    ref = journal.active
    bundle = verify(BundleStore(bundles).read(ref.sha256), ref.sha256)
    return ActiveRelease(ref=ref, bundle=bundle, generation=0, is_trial=journal.step() is InstallStep.TRIAL)
