"""What the aggregator's HTTP API says of training, as far as the fleet shows it: read as data, never imported from there.

Every field that may be missing has a default, so that an aggregator which is a version older or newer is shown as far as it is
understood. Times are Unix seconds. The words are those of docs/aggregator.md.
"""

from __future__ import annotations

from msgspec import Struct

from protocol.privacy_claim import PrivacyClaim

__all__ = [
    "Amount",
    "Check",
    "DevicePrivacy",
    "FamilyPrivacies",
    "FamilyPrivacy",
    "GivenToFamily",
    "GivenToRun",
    "Refit",
    "RefusedDevice",
    "Round",
    "RunPage",
    "RunSummary",
    "TrainingRun",
]


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run in a list. `reason` says why it started, `detail` why it is where it is."""

    id: str
    family: str
    state: str
    trigger: str = ""
    reason: str = ""
    requested_by: str = ""
    detail: str = ""
    planned_rounds: int = 0
    finished_rounds: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    ended_at: float | None = None
    base_release: str | None = None
    release: str | None = None
    rollout: str | None = None


class RunPage(Struct, frozen=True, kw_only=True):
    """Some runs, the newest first."""

    items: tuple[RunSummary, ...]
    next_cursor: str | None = None


class RefusedDevice(Struct, frozen=True, kw_only=True):
    """A device whose answer was not taken, and why."""

    device: str
    reason: str


class Round(Struct, frozen=True, kw_only=True):
    """One question to one cohort; a `void` one came to nothing and is asked again as the next `attempt`."""

    kind: str
    number: int
    attempt: int = 1
    started_at: float = 0.0
    seconds: float = 0.0
    asked: int = 0
    participants: tuple[str, ...] = ()
    refused: tuple[RefusedDevice, ...] = ()
    lost: tuple[str, ...] = ()
    stages: dict[str, str] = {}
    examples: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    void: bool = False
    note: str = ""


class Check(Struct, frozen=True, kw_only=True):
    """One check of the gate before the signature; `reason` says it in a sentence."""

    name: str
    value: float
    limit: float
    is_passed: bool
    reason: str
    is_warning: bool = False


class Refit(Struct, frozen=True, kw_only=True):
    """What became of the fleet's prior."""

    reason: str = ""
    devices: int = 0
    windows: int = 0


class TrainingRun(RunSummary, frozen=True, kw_only=True):
    """A run in full. `evaluation` has the losses of candidate and champion, the alarm rate and the error of int8."""

    mode: str = ""
    protection: str = ""
    groups: tuple[tuple[str, ...], ...] = ()
    rounds: tuple[Round, ...] = ()
    refits: tuple[Round, ...] = ()
    assessments: tuple[Round, ...] = ()
    evaluation: dict[str, float] = {}
    refit: Refit | None = None
    checks: tuple[Check, ...] = ()
    participants: tuple[str, ...] = ()
    examples: int = 0
    privacy: PrivacyClaim | None = None

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """Why the candidate was refused, each reason."""
        return tuple(check for check in self.checks if not check.is_passed)


class Amount(Struct, frozen=True, kw_only=True):
    """`spent` of None: nothing limits it. `limit` of None: no limit is set."""

    spent: float | None
    limit: float | None = None
    left: float | None = None


class FamilyPrivacy(Struct, frozen=True, kw_only=True):
    """What a family's rounds have cost so far, at `delta`."""

    family: str
    mode: str
    delta: float
    epsilon_server: Amount
    epsilon_release: Amount
    sums: Amount
    devices: int = 0
    rounds: int = 0
    noiseless: int = 0


class FamilyPrivacies(Struct, frozen=True, kw_only=True):
    """Of every family."""

    items: tuple[FamilyPrivacy, ...]


class GivenToRun(Struct, frozen=True, kw_only=True):
    """What one device gave to one run."""

    run: str
    first_at: float = 0.0
    last_at: float = 0.0
    asked: int = 0
    sums: int = 0
    noiseless: int = 0
    epsilon: float | None = None
    questions: dict[str, int] = {}


class GivenToFamily(Struct, frozen=True, kw_only=True):
    """What one device gave to a family, and what is left of its budget there."""

    family: str
    delta: float
    epsilon: Amount
    sums: Amount
    noiseless: int = 0
    runs: tuple[GivenToRun, ...] = ()


class DevicePrivacy(Struct, frozen=True, kw_only=True):
    """What one device gave, by the aggregator's ledger."""

    device: str
    families: tuple[GivenToFamily, ...] = ()
