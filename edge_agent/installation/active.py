"""The release that detection runs: what the installer hands to the agent's loop.

A value, not a service: the bundle is verified and in memory, so that swapping a model is a change of reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.bundles import ModelBundle

    from edge_agent.installation.journal import BundleRef

__all__ = ["ActiveRelease"]


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
