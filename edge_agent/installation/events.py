"""What happens to an installation (events) and what is done about it (effects), as values.

They carry facts only; `transitions` decides what follows from an event, `installer` performs effects. Each effect may be
performed again after a kill, and ends in exactly one event.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.installation.journal import Baseline, BundleRef
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import DesiredState, ShadowReport

__all__ = [
    "Activate",
    "ActiveLost",
    "Asked",
    "Check",
    "Checked",
    "Closing",
    "Download",
    "Downloaded",
    "Effect",
    "Event",
    "FallBack",
    "FellBack",
    "FetchWaits",
    "ListChanged",
    "Opened",
    "Probe",
    "Probed",
    "Proceed",
    "Prune",
    "Reactivate",
    "Restarted",
    "Shadow",
    "ShadowWaits",
    "Shadowed",
    "Staged",
    "Stopped",
    "TrialEnded",
    "TrialSilent",
    "Verified",
    "Verify",
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The fleet wants a release."""

    desired: DesiredState


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """The agent has started; whatever was under way was cut off."""


@dataclass(frozen=True, kw_only=True)
class Closing:
    """The agent ends in good order; whatever is under way is not to blame for it."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The request is acceptable."""

    is_on_disk: bool


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """All bytes are on disk."""


@dataclass(frozen=True, kw_only=True)
class FetchWaits:
    """It is not the time to fetch; `reason` is a sentence."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """It is listed, hashes and fit hold, and the file has its final name."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The way is free to go on."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """The model reproduces its golden outputs in a child process, fast enough."""


@dataclass(frozen=True, kw_only=True)
class Shadowed:
    """The bundle `sha256` has judged live windows beside the release that runs."""

    sha256: str
    report: ShadowReport


@dataclass(frozen=True, kw_only=True)
class ShadowWaits:
    """The bundle `sha256` waits for windows on which it could be compared; `reason` says what is in the way."""

    sha256: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reactivate:
    """What runs shall be activated once more, reported under `execution`."""

    execution: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The bundle is in memory; `baseline` says how detection goes without it."""

    baseline: Baseline | None


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """The trial of the bundle `sha256` has a verdict: `failure` is its reason, or None where it passed."""

    sha256: str
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class TrialSilent:
    """The trial of the bundle `sha256` runs, but for `silent_s` seconds no window could be judged."""

    sha256: str
    silent_s: float


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The step's work ended badly: `step` is REJECTED, FAILED or TIMED_OUT."""

    step: InstallStep
    reason: str


@dataclass(frozen=True, kw_only=True)
class ActiveLost:
    """The active bundle can no longer be opened."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class ListChanged:
    """The signed repository, as this device knows it, lists other releases than before."""


@dataclass(frozen=True, kw_only=True)
class FellBack:
    """`bundle` is in memory (None: there is nothing to run); `failure` says that bundles were there, but none opens.

    `found_bytes` is its length where the journal did not know it, and it was found on the disk: it has proved nothing here.
    """

    bundle: BundleRef | None
    failure: str | None
    found_bytes: int = 0


Event = (
    Asked
    | Restarted
    | Closing
    | Checked
    | Downloaded
    | FetchWaits
    | Verified
    | Staged
    | Probed
    | Shadowed
    | ShadowWaits
    | Reactivate
    | Opened
    | TrialEnded
    | TrialSilent
    | Stopped
    | ActiveLost
    | ListChanged
    | FellBack
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Test the request against this device."""

    desired: DesiredState


@dataclass(frozen=True, kw_only=True)
class Download:
    """Fetch what is missing of the bundle; `is_deferred`: it has been said that it is not the time for it."""

    desired: DesiredState
    is_deferred: bool = False


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Verify the file completely and give it its final name; `is_proven`: it passed a trial here once."""

    desired: DesiredState
    is_proven: bool = False


@dataclass(frozen=True, kw_only=True)
class Proceed:
    """Nothing to do; go on."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Run the model in a child process."""

    bundle: BundleRef


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Let the loop judge by the bundle beside the release that runs."""

    bundle: BundleRef


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Bring the bundle into memory; `is_proven`: it passed a trial here once."""

    desired: DesiredState
    is_proven: bool = False


@dataclass(frozen=True, kw_only=True)
class FallBack:
    """Bring the first of these that opens into memory, else the factory's, else any on disk that is not among `shunned`."""

    bundles: tuple[BundleRef, ...]
    shunned: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Delete every bundle that the journal does not keep."""


Effect = Check | Download | Verify | Proceed | Probe | Shadow | Activate | FallBack | Prune
