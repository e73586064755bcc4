"""What a device remembers about installing, as one immutable value.

Not a log: it holds the present, plus the last few outcomes so that a repeated request gets the same answer. The pointer
to the active bundle lives in the same value as the step of the installation, so that both always change in one write.

Invariants: `highest_counter` never falls; `committed` holds at most `KEPT_COMMITTED` bundles, newest first; `attempt`
is None unless an installation is under way.

Source: the pointer kept together with its boot counter follows A/B updaters (RAUC, U-Boot bootcount); the steps are
`protocol.messages.kinds.InstallStep`, drawn in `transitions`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from protocol.messages.kinds import InstallStatus, InstallStep
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport

__all__ = ["KEPT_COMMITTED", "KEPT_OUTCOMES", "RECOVERY", "Attempt", "Baseline", "BundleRef", "Journal"]

KEPT_COMMITTED: Final = 2
"""Committed bundles kept on disk beside the factory one: the present one and the one before it."""

KEPT_OUTCOMES: Final = 8
"""Outcomes remembered for requests that arrive twice; brokers repeat the last one or two."""

RECOVERY: Final = "recovery"
"""The execution under which the trial of a bundle that was found on the disk is reported: no rollout asked for it."""

Count = Annotated[int, Meta(ge=0)]


class BundleRef(Struct, frozen=True, kw_only=True):
    """A bundle on this device's disk, by the SHA-256 of the whole file."""

    release: Annotated[str, Meta(min_length=1, max_length=200)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Baseline(Struct, frozen=True, kw_only=True):
    """How detection went before a new release: the yardstick of its trial.

    `latency_us` is the median inference time over the last `windows` windows; `error_share` the share that failed.
    """

    windows: Count
    latency_us: float
    error_share: float


class Attempt(Struct, frozen=True, kw_only=True):
    """One installation under way.

    Attributes:
        desired: what was asked.
        step: how far it is; written before the step's work begins.
        fallback: what ran before, and runs again if this fails.
        starts: how often the agent began to run this content (probe or trial) and was cut off, plus the present time.
        baseline: the yardstick, from TRIAL on.
        reason: why it is being undone, from ROLLING_BACK on, or why it is deferred.
        is_deferred: whether the trial waits for windows that do not come.
        is_sham: whether what runs is activated once more, for comparison with what a new release does to a device.
        shadow: what came of judging beside the champion, from ACTIVATING on.
    """

    desired: DesiredState
    step: InstallStep
    fallback: BundleRef | None = None
    starts: Count = 0
    baseline: Baseline | None = None
    reason: str = ""
    is_deferred: bool = False
    is_sham: bool = False
    shadow: ShadowReport | None = None

    @property
    def bundle(self) -> BundleRef:
        """The bundle that is being installed."""
        return BundleRef(release=self.desired.release, sha256=self.desired.bundle_sha256)


class Journal(Struct, frozen=True, kw_only=True):
    """The content of ``install.json``.

    Attributes:
        highest_counter: of the newest desired state that was begun here; what is below it is old.
        active: the bundle the agent runs, also after a restart.
        committed: bundles that passed their trial here, newest first.
        factory: the bundle that came with the device, else the first one ever committed; never deleted.
        attempt: the installation under way.
        approved: the newest bundle of which the fleet said that a person approved it, installed or not.
        outcomes: final reports of the last installations, oldest first.
    """

    format: Literal[1] = 1
    highest_counter: Count = 0
    active: BundleRef | None = None
    committed: tuple[BundleRef, ...] = ()
    factory: BundleRef | None = None
    attempt: Attempt | None = None
    approved: BundleRef | None = None
    outcomes: tuple[InstallReport, ...] = ()

    def fallbacks(self) -> tuple[BundleRef, ...]:
        """Bundles to run when the active one cannot: the attempt's fallback, the committed, the factory one."""
        first = self.attempt.fallback if self.attempt else None
        ordered = [first, *self.committed, self.factory]
        return tuple(dict.fromkeys(ref for ref in ordered if ref is not None))

    def has_proven(self, sha256: str) -> bool:
        """Whether these exact bytes already passed a trial on this device."""
        return any(ref.sha256 == sha256 for ref in (*self.committed, self.factory) if ref is not None)

    def kept(self) -> frozenset[str]:
        """SHA-256 of every bundle that must stay on disk."""
        refs = [*self.fallbacks(), self.active, self.approved, self.attempt.bundle if self.attempt else None]
        return frozenset(ref.sha256 for ref in refs if ref is not None)

    def outcome_of(self, execution: str) -> InstallReport | None:
        """The final report of an installation that ended, if it is remembered."""
        return next((r for r in reversed(self.outcomes) if r.execution == execution), None)

    def step(self) -> InstallStep:
        """Where installing stands, for people who watch; INCONSISTENT stays until something runs again."""
        if self.attempt is not None:
            return self.attempt.step
        if self.active is None and self.outcomes and self.outcomes[-1].step is InstallStep.INCONSISTENT:
            return InstallStep.INCONSISTENT
        return InstallStep.IDLE

    def trying(self, ref: BundleRef, size_bytes: int, *, starts: int = 1) -> Journal:
        """The journal of a device that runs `ref`, which was found on its disk: nobody knows whether it ever worked here."""
        attempt = Attempt(
            desired=self._wish_of_ours(RECOVERY, ref, size_bytes),
            step=InstallStep.TRIAL,
            starts=starts,
            reason="found on the disk; it is not known whether it ever worked here",
        )
        return replace(self, active=ref, attempt=attempt)

    def reactivating(self, execution: str, ref: BundleRef) -> Journal:
        """The journal of a device that activates what it runs once more, and reports that under `execution`."""
        attempt = Attempt(
            desired=self._wish_of_ours(execution, ref, 1),
            step=InstallStep.ACTIVATING,
            starts=1,
            fallback=ref,
            is_sham=True,
        )
        return replace(self, attempt=attempt)

    def _wish_of_ours(self, execution: str, ref: BundleRef, size_bytes: int) -> DesiredState:
        return DesiredState(
            execution=execution,
            release=ref.release,
            counter=max(1, self.highest_counter),
            bundle_path=f"/v1/releases/{ref.release}/bundle",
            bundle_sha256=ref.sha256,
            bundle_bytes=size_bytes,
        )

    def lost(self) -> str:
        """The release that was committed last but cannot be opened any more; empty where it runs, or another one comes."""
        if self.attempt is not None or not self.committed or self.active == self.committed[0]:
            return ""
        return self.committed[0].release

    def report(
        self, desired: DesiredState, step: InstallStep, status: InstallStatus, *, reason: str = ""
    ) -> InstallReport:
        """The report that says `step` of `desired` to the fleet, with the release that is active now."""
        mine = self.attempt is not None and self.attempt.desired.asks_the_same(desired)
        attempt = self.attempt if mine else None
        return InstallReport(
            execution=desired.execution,
            release=desired.release,
            counter=desired.counter,
            step=step,
            status=status,
            progress=1.0 if status is InstallStatus.SUCCEEDED else 0.0,
            reason=reason[:2000],
            active_release=self.active.release if self.active else None,
            shadow=UNSET if attempt is None or attempt.shadow is None else attempt.shadow,
        )
