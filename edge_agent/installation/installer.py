"""The installer as the agent's loop sees it: one worker thread that never makes inference wait.

::

    loop ── submit(desired) ──►┌────────┐── event ──► transitions.decide ──► journal (fsync) ──► effect ─┐
    loop ── on_window(...) ───►│ worker │◄───────────────────────── the next event ────────────────────┘
    loop ◄─ active(), poll() ──└────────┘

The worker handles one event at a time: decide, write the journal, publish the active release, perform the effect, whose
result is the next event. A newer request interrupts a download or a probe. The loop swaps models between windows, when
it sees that `active()` gives another `generation`.

Not here: scheduling of windows, building interpreters, sending reports (the loop puts them into its outbox).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from edge_agent.allowance import Allowance
from edge_agent.installation.acceptance import Novelty, novelty
from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.effects import Effects, InstallLimits, InstallTools
from edge_agent.installation.events import (
    ActiveLost,
    Asked,
    Closing,
    Effect,
    Event,
    FallBack,
    ListChanged,
    Prune,
    Reactivate,
    Restarted,
    Shadow,
    Shadowed,
    ShadowWaits,
)
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.recovery import first_journal, found_damaged
from edge_agent.installation.reports import Reports
from edge_agent.installation.transitions import Decision, decide
from edge_agent.installation.trial import WindowRecord
from edge_agent.installation.trial_watch import TrialWatch
from edge_agent.word_order import LateWords
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import InstallStatus, InstallStep, Kind
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport
from runtime.errors import FedgeError, StorageError

__all__ = ["Installer"]

log: Final = logging.getLogger(__name__)

PROGRESS_EVERY_S: Final = 5.0
"""How often a long download is reported."""

REPEATED_EVERY_S: Final = 600.0
"""How often a word that is no news is answered, past the first few: a broker may bring them again without end."""

CLOSE_WAIT_S: Final = 5.0
"""How long `close` waits for the worker: a read from the network ends within its own timeout."""


@dataclass(frozen=True, kw_only=True)
class _Published:
    """What the loop may see, replaced as a whole: one reference, so no lock."""

    active: ActiveRelease | None
    trial: TrialWatch | None


class Installer:
    """Installs what the fleet asks for. All calls belong to the loop's thread and return at once.

    Use::

        installer = open_installer(journal_file=..., bundles=..., trust=..., requirements=..., source=fleet_client)
        installer.start(wake=loop_wakeup)
        while running:
            active = installer.active()  # once before each window
            if active and active.generation != generation:
                model, generation = Int8Model(active.bundle.int8_model), active.generation  # error → on_window
            ...
            installer.on_window(score, latency_us, error)  # speaks of the release that active() last gave
            for report in installer.poll():
                outbox.put(report)
        installer.close()

    Raises:
        StorageError: another agent uses the directory, or the disk cannot be read.
    """

    def __init__(
        self,
        *,
        journal_file: JournalFile,
        tools: InstallTools,
        record: WindowRecord,
        limits: InstallLimits,
        inbox: Inbox,
    ) -> None:
        tools.store.lock()
        self._file = journal_file
        self._tools = tools
        self._record = record
        self._limits = limits
        self._inbox = inbox
        self._effects = Effects(tools, limits)
        self._repeats = Allowance(burst=4, every_s=REPEATED_EVERY_S, monotonic=inbox.now)
        self._repeated: DesiredState | None = None
        self._late = LateWords(Kind.DESIRED, monotonic=inbox.now)
        self._reports = Reports()
        self._wake: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._last_progress_s = float("-inf")
        self._generation = 0
        self._published = self._handed = _Published(active=None, trial=None)
        self._deferred: Effect | None = None
        self._candidate: ActiveRelease | None = None
        self._is_recovering = True
        found = journal_file.load()
        self._is_journal_lost = found is None and journal_file.was_damaged
        self._journal = found or self._adopt()
        self._handle(Restarted())
        self._is_recovering = False

    def start(self, wake: Callable[[], None] | None = None) -> None:
        """Work in the background from now on; `wake` is called from the worker when there is something to poll."""
        self._wake = wake or self._wake
        self._thread = threading.Thread(target=self._work, name="installer", daemon=True)
        self._thread.start()

    def submit(self, desired: DesiredState) -> list[CommandResult]:
        """Ask for a release, by a word that the fleet has sealed for this device.

        A repeated one is answered again by its report, though not without end. An older one changes nothing.

        Returns:
            What the fleet is told at once: that a newer word was obeyed here before.
        """
        journal = self._journal
        if journal.attempt is not None and journal.attempt.desired == desired:
            return []  # brokers repeat retained messages; that must not interrupt the very work they ask for
        known = novelty(journal, desired)
        if known is Novelty.STALE:
            # no report: it would speak of an execution that ended otherwise
            return self._late.answer(desired.counter, journal.highest_counter)
        if known in {Novelty.NEW, Novelty.LOST, Novelty.RUNNING} or _approves(journal, desired):
            self._repeated = None
        elif journal.attempt is not None or desired == self._repeated or not self._repeats.take():
            return []
        else:
            self._repeated = desired
        self._inbox.put(Asked(desired=desired))
        return []

    def poll(self) -> list[InstallReport]:
        """Take the reports made since the last call, oldest first; of one execution's progress only the newest."""
        trial = self._published.trial
        silence = trial.silence(self._inbox.now()) if trial is not None else None
        if silence is not None:
            self._inbox.put(silence)
        return self._reports.take()

    def active(self) -> ActiveRelease | None:
        """The release to run for the next window; None while the device has none."""
        self._handed = self._published
        return self._handed.active

    def on_window(self, score: float | None, latency_us: float, error: str | None = None) -> None:
        """Tell how a window went with the release that `active` last gave.

        Args:
            score: its anomaly score, or None where the model gave none (also: it could not be loaded).
            latency_us: time of the inference, µs.
            error: one line if something failed, else None.
        """
        active, trial = self._handed.active, self._handed.trial
        if active is None:
            return
        if trial is None:
            self._record.add(latency_us, has_failed=error is not None)
            return
        ended = trial.note(score, latency_us, error, self._inbox.now())
        if ended is not None:
            self._inbox.put(ended)

    def candidate(self) -> ActiveRelease | None:
        """The release that shall judge beside the active one for now; the same object as long as it is the same."""
        return self._candidate

    def on_shadow(self, sha256: str, told: ShadowReport | str) -> None:
        """Tell what came of judging by the candidate `sha256`, or, a sentence, why nothing does yet."""
        event: Event = (
            ShadowWaits(sha256=sha256, reason=told)
            if isinstance(told, str)
            else Shadowed(sha256=sha256, report=told)
        )
        self._inbox.put(event)

    def reactivate(self, execution: str) -> str:
        """Activate once more what runs, as if it were new: the same bundle goes through ACTIVATING and TRIAL.

        A sham, for honest comparisons: whatever an activation does to a device by itself, this does, too.

        Args:
            execution: what its reports are called; the last one is SUCCEEDED, or says why not.

        Returns:
            Why not, in a sentence; empty where it begins.
        """
        if self._published.active is None:
            return "no release runs here"
        if self._journal.attempt is not None:
            return f"{self._journal.attempt.desired.release} is being installed"
        self._inbox.put(Reactivate(execution=execution))
        return ""

    def look_again(self) -> None:
        """The signed repository says more than it did: where nothing runs, look whether something on the disk is listed now."""
        self._inbox.put(ListChanged())

    def outcome(self, execution: str) -> InstallReport | None:
        """How an installation or reactivation ended, if it is remembered."""
        return self._journal.outcome_of(execution)

    def step(self) -> InstallStep:
        """Where installing stands; IDLE when nothing is under way."""
        return self._journal.step()

    def close(self) -> None:
        """Stop the worker; what was under way continues at the next start."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)
        if self._thread is None or not self._thread.is_alive():
            self._handle(Closing())
        self._tools.store.unlock()

    def run_pending(self) -> None:
        """Do all waiting work now, in the caller's thread: for tests and tools, instead of `start`."""
        self._work(is_blocking=False)

    def _work(self, *, is_blocking: bool = True) -> None:
        deferred, self._deferred = self._deferred, None
        if deferred is not None:
            self._follow(deferred)
        while (event := self._inbox.take(is_blocking=is_blocking)) is not None:
            try:
                self._handle(event)
            except Exception:  # as in `Effects.perform`: the next request finds a worker that works
                log.exception("installer_defect event=%s", type(event).__name__)

    def problems(self) -> list[str]:
        """What a person should know of bundles and requests, a sentence each, the gravest first."""
        active = self._published.active
        running = f"{active.release} runs" if active is not None else "nothing runs"
        lost = (self._journal.lost(), self._is_journal_lost, self._effects.mended)
        return [*found_damaged(*lost, running=running), *self._tools.trust.problems()]

    def _handle(self, event: Event) -> None:
        decision = decide(self._journal, event)
        if self._apply(decision):
            self._follow(decision.effect)

    def _follow(self, effect: Effect | None) -> None:
        """Perform an effect and everything that follows from it."""
        while effect is not None:
            if self._is_recovering and not isinstance(effect, FallBack | Prune):
                self._deferred = effect  # the agent's start does not wait for networks and probes
                return
            if isinstance(effect, Prune):
                self._tools.store.prune(self._journal.kept())
                return
            event = self._effects.perform(effect, self._inbox, self._on_progress)
            if event is None:
                if isinstance(effect, Shadow):
                    self._show(effect.bundle)
                return
            decision = decide(self._journal, event)
            if not self._apply(decision):
                return
            effect = decision.effect

    def _apply(self, decision: Decision) -> bool:
        """Write the journal, then let the loop and the fleet see it; False where the decision's effect is void."""
        if decision.journal != self._journal:
            try:
                self._file.save(decision.journal)
            except StorageError as error:
                if not self._may_go_on_unwritten(decision, error):
                    return False
            self._journal = decision.journal
        if self._journal.step() is not InstallStep.SHADOWING:
            self._candidate = None
        self._report(decision.reports)
        if isinstance(decision.effect, FallBack):
            return True  # the loop keeps what it has until something better is in memory
        try:
            self._publish()
        except (FedgeError, OSError) as error:
            log.error("active_release_lost release=%s error=%s", self._journal.active, error)  # noqa: TRY400 - expected, no traceback
            self._handle(ActiveLost(reason=str(error)))
            return False
        return True

    def _show(self, ref: BundleRef) -> None:
        """Let the loop judge by the candidate, too; the one it has already goes on."""
        if self._candidate is None or self._candidate.ref != ref:
            bundle = self._effects.open(ref)
            self._candidate = ActiveRelease(ref=ref, bundle=bundle, generation=0, is_trial=True)
            self._wake()

    def _may_go_on_unwritten(self, decision: Decision, error: StorageError) -> bool:
        step, attempt = self._journal.step(), self._journal.attempt or decision.journal.attempt
        log.error("install_journal_unwritten step=%s error=%s", step.value, error)
        if InstallStep.ROLLING_BACK in {step, decision.journal.step()}:
            return True  # the good model must run again, disk or no disk; the next start decides anew
        if step is InstallStep.TRIAL:
            self._publish(is_new_trial=True)  # judged again, and written then
        elif attempt is not None:
            failed = self._journal.report(
                attempt.desired, InstallStep.FAILED, InstallStatus.FAILED, reason=str(error)
            )
            self._report([failed])
            # The same wish, delivered again, is begun again; where its counter is known already it is answered, not refused.
            is_new = attempt.desired.counter > self._journal.highest_counter
            outcomes = self._journal.outcomes if is_new else (*self._journal.outcomes, failed)
            self._journal = msgspec.structs.replace(self._journal, attempt=None, outcomes=outcomes)
        return False

    def _publish(self, *, is_new_trial: bool = False) -> None:
        """Show the loop what the journal says; raises where the active bundle cannot be opened."""
        shown, ref = self._published, self._journal.active
        shown_ref = shown.active.ref if shown.active is not None else None
        is_trial, was_trial = self._journal.step() is InstallStep.TRIAL, shown.trial is not None
        if (ref, is_trial) == (shown_ref, was_trial) and not is_new_trial:
            return
        ended = self._journal.outcomes[-1].status if self._journal.outcomes else None
        is_undone = was_trial and not is_trial and ended is not InstallStatus.SUCCEEDED
        # A sham changes no byte, and is a swap all the same.
        is_swap = ref != shown_ref or is_undone or (is_trial and not was_trial)
        if not is_trial and not is_undone:
            self._record.clear()  # a release that stays is its own yardstick
        active = trial = None
        if ref is not None:
            if is_swap:
                self._generation += 1
            active = ActiveRelease(
                ref=ref, bundle=self._effects.open(ref), generation=self._generation, is_trial=is_trial
            )
        if is_trial and ref is not None and self._journal.attempt is not None:
            trial = TrialWatch(
                ref.sha256, self._limits.trial, self._journal.attempt.baseline, self._inbox.now()
            )
        self._published = _Published(active=active, trial=trial)
        self._wake()

    def _report(self, reports: Sequence[InstallReport]) -> None:
        if reports:
            self._reports.add(reports)
            self._wake()

    def _on_progress(self, share: float) -> None:
        attempt, now = self._journal.attempt, self._inbox.now()
        if attempt is None or now - self._last_progress_s < PROGRESS_EVERY_S:
            return
        self._last_progress_s = now
        report = self._journal.report(attempt.desired, attempt.step, InstallStatus.IN_PROGRESS)
        self._report([msgspec.structs.replace(report, progress=min(share, 1.0))])

    def _adopt(self) -> Journal:
        tools = self._tools
        journal = first_journal(tools.store, tools.trust, tools.requirements)
        try:
            self._file.save(journal)
        except StorageError as error:  # found again at the next start; detection does not wait for a disk
            log.error("install_journal_unwritten error=%s", error)  # noqa: TRY400 - expected, no traceback
        return journal


def _approves(journal: Journal, desired: DesiredState) -> bool:
    """Whether a word says of what it asked for before that a person approved it by now."""
    known = journal.approved
    is_known = known is not None and known.sha256 == desired.bundle_sha256
    return desired.is_approved and desired.counter == journal.highest_counter and not is_known
