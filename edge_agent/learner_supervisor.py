"""Starts, watches and ends the learner: a guest process that lives only for a training run.

A learner that crashes, hangs or eats memory never touches inference: it is another process, with lower priority. The
supervisor decides in `tick`, which the agent's loop calls a few times a second; it blocks nowhere.

::

    invitation ─► IDLE ─(ready, after a random part of spread_s)─► RUNNING ─► exit 0: done with this run id
                    ▲                                                 │       exit 3: not now, asked again later
                    └── backoff (at most 3 restarts) ◄────────────────┘       else:   crashed
    cleared or expired ─► SIGTERM, then SIGKILL after a grace

Invariants: at most one learner; one run id is joined at most once to its end; a learner left over by a killed agent
is ended before a new one starts. The learner lowers its own
priority (nice 10) before it imports anything large.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from edge_agent.aggregator_trust import Distrust
from edge_agent.ended_invitations import EndedInvitations
from edge_agent.learner.learner_stats import LearnerStats
from edge_agent.settings import StatePaths
from protocol.messages.payloads import TrainingInvitation
from runtime.backoff import backoff_s
from runtime.durable_files import private_directory, read_bytes, write_quickly
from runtime.errors import StorageError

__all__ = ["Child", "LearnerStats", "LearnerSupervisor", "end_orphan", "start_learner"]

log = logging.getLogger(__name__)

NOT_READY: Final = 3
"""The learner's exit status for "not now": not a crash, no restart is used up."""
RESTARTS: Final = 3
FIRST_BACKOFF_S: Final = 2.0
LONGEST_BACKOFF_S: Final = 60.0
RETRY_S: Final = 5.0
"""How often a refused invitation is considered again: temperature and buffer change slowly."""
GRACE_S: Final = 5.0
"""Between SIGTERM and SIGKILL."""


class Child(Protocol):
    """A running learner; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Process id."""

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Deliver a signal; no effect once it has ended."""


class LearnerSupervisor:
    """One invitation at a time; a newer one replaces it."""

    def __init__(
        self,
        paths: StatePaths,
        *,
        start: Callable[[], Child],
        distrust: Distrust,
        refusal: Callable[[TrainingInvitation, float], str | None],
        draw: Callable[[], float],
    ) -> None:
        """Begin without an invitation.

        Args:
            paths: where invitation, stats and pid live.
            start: starts the child, which reads `paths.invitation`.
            distrust: whether an invitation is the aggregator's, and for this device.
            refusal: the readiness check: (invitation, Unix seconds) → reason, or None.
            draw: uniform in [0, 1): spreads a fleet's arrival and its returns.
        """
        self._paths = paths
        self._start = start
        self._distrust = distrust
        self._refusal = refusal
        self._ended = EndedInvitations(paths.ended_invitations)
        self._draw = draw
        self._invitation: TrainingInvitation | None = None
        self._child: Child | None = None
        self._not_before_s = 0.0
        self._crashes = 0
        self._kill_at_s: float | None = None
        self._done_run = _last_run(paths.learner / "last_run")
        self._bytes_of_child = 0
        self.note = "no training run is open"

    @property
    def run_id(self) -> str | None:
        """The run whose learner is working now."""
        return self._invitation.run_id if self._child is not None and self._invitation is not None else None

    @property
    def pid(self) -> int | None:
        """Process id of the learner, if one runs."""
        return self._child.pid if self._child is not None else None

    def invite(self, invitation: TrainingInvitation | None, now_s: float) -> None:
        """Take the retained invitation as it is now; None: it was cleared, the run is over.

        A repeated invitation changes nothing; another run replaces the one before. One that is not the aggregator's, or has
        ended here before, changes nothing either.
        """
        reason = None if invitation is None else self._unheard(invitation, now_s)
        if invitation is not None and reason is not None:
            log.warning("invitation_ignored run=%r reason=%s", invitation.run_id[:80], reason)
            if self._invitation is None:
                self.note = reason
            return
        if self._invitation is not None and invitation != self._invitation:
            self._ended.add(self._invitation)
            if invitation is None or invitation.run_id != self._invitation.run_id:
                self._stop(now_s, "the run was closed")
        if invitation is None:
            self._invitation, self.note = None, "no training run is open"
            return
        is_repeat = self._invitation is not None and self._invitation.run_id == invitation.run_id
        self._invitation = invitation
        if not is_repeat:
            self._crashes = 0
            self._not_before_s = now_s + self._draw() * invitation.spread_s

    def _unheard(self, invitation: TrainingInvitation, now_s: float) -> str | None:
        """Why this invitation is as if it had not come."""
        if (reason := self._distrust(invitation, now_s)) is not None:
            return reason
        if invitation in self._ended:
            return f"the invitation to run {invitation.run_id} has ended here before"
        return None

    def tick(self, now_s: float) -> int:
        """Do what is due at `now_s` (Unix seconds).

        Returns:
            Bytes the learner sent and received since the last call.
        """
        moved = self._count_bytes()
        if self._child is not None:
            moved += self._watch(self._child, now_s)
        invitation = self._invitation
        if self._child is None and invitation is not None and now_s >= self._not_before_s:
            self._consider(invitation, now_s)
        return moved

    def close(self, now_s: float) -> int:
        """End the learner with the agent; returns the bytes it moved last."""
        moved = self._count_bytes()
        child = self._child
        if child is not None:
            self._stop(now_s, "the agent stops")
            if isinstance(child, subprocess.Popen):
                try:
                    child.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            self._forget_child()
        return moved

    def _consider(self, invitation: TrainingInvitation, now_s: float) -> None:
        if now_s >= invitation.expires_at:
            self._invitation, self.note = None, f"the invitation to run {invitation.run_id} has expired"
            return
        if invitation.run_id == self._done_run:
            self.note = f"run {invitation.run_id} is done here"
            self._not_before_s = invitation.expires_at
            return
        reason = self._refusal(invitation, now_s)
        if reason is not None:
            if reason != self.note:
                log.info("training_declined run=%s reason=%s", invitation.run_id, reason)
            self.note = reason
            self._not_before_s = now_s + RETRY_S
            return
        if self._crashes > RESTARTS:
            self.note = f"the learner crashed {self._crashes} times in run {invitation.run_id}; waiting for the next run"
            self._not_before_s = invitation.expires_at
            return
        try:
            private_directory(self._paths.learner)
            self._paths.learner_stats.unlink(missing_ok=True)
            write_quickly(self._paths.invitation, msgspec.json.encode(invitation))
            self._child = self._start()
            write_quickly(self._paths.learner / "pid", str(self._child.pid).encode())
        except OSError as error:
            log.warning("learner_not_started run=%s error=%s", invitation.run_id, error)
            self.note, self._not_before_s = f"the learner could not be started: {error}", now_s + RETRY_S
            return
        self._bytes_of_child = 0
        self._kill_at_s = None
        self.note = f"training in run {invitation.run_id}"
        log.info("learner_started run=%s pid=%d", invitation.run_id, self._child.pid)

    def _watch(self, child: Child, now_s: float) -> int:
        status = child.poll()
        if status is None:
            invitation = self._invitation
            if self._kill_at_s is not None:
                if now_s >= self._kill_at_s:
                    child.send_signal(signal.SIGKILL)
            elif invitation is None or now_s >= invitation.expires_at:
                self._stop(now_s, "the invitation has expired")
            return 0
        moved = self._count_bytes()
        was_stopped = self._kill_at_s is not None
        self._forget_child()
        run = self._invitation.run_id if self._invitation is not None else "(closed)"
        if was_stopped:
            log.info("learner_ended run=%s", run)
        elif status == 0:
            log.info("learner_finished run=%s", run)
            self._finish(run)
        elif status == NOT_READY:
            self.note, self._not_before_s = "the learner found the device not ready", now_s + RETRY_S
        else:
            self._crashes += 1
            delay_s = backoff_s(
                self._crashes, first_s=FIRST_BACKOFF_S, maximum_s=LONGEST_BACKOFF_S, draw=self._draw()
            )
            self.note = f"the learner crashed with status {status} ({self._crashes}. time)"
            self._not_before_s = now_s + delay_s
            log.warning(
                "learner_crashed run=%s status=%d crashes=%d retry_s=%.0f",
                run,
                status,
                self._crashes,
                delay_s,
            )
        return moved

    def _finish(self, run_id: str) -> None:
        self._done_run = run_id
        self.note = f"run {run_id} is done here"
        try:
            write_quickly(self._paths.learner / "last_run", run_id.encode())
        except StorageError as error:
            log.warning("last_run_not_saved error=%s", error)

    def _stop(self, now_s: float, why: str) -> None:
        if self._child is not None and self._kill_at_s is None:
            log.info("learner_stopping pid=%d reason=%s", self._child.pid, why)
            self._child.send_signal(signal.SIGTERM)
            self._kill_at_s = now_s + GRACE_S

    def _forget_child(self) -> None:
        self._child = None
        self._kill_at_s = None
        (self._paths.learner / "pid").unlink(missing_ok=True)

    def _count_bytes(self) -> int:
        if self._child is None:
            return 0
        try:
            content = read_bytes(self._paths.learner_stats)
            stats = msgspec.json.decode(content or b"", type=LearnerStats)
        except (StorageError, msgspec.DecodeError):
            return 0  # it has not written any yet, or this time they cannot be read
        total = max(0, stats.sent_bytes) + max(0, stats.received_bytes)
        moved, self._bytes_of_child = max(0, total - self._bytes_of_child), max(total, self._bytes_of_child)
        return moved


def start_learner(config_file: Path, paths: StatePaths) -> subprocess.Popen[bytes]:
    """Start ``python -m edge_agent.learner``; its output goes to learner/learner.log.

    Raises:
        OSError: no memory, no process slots, or no disk.
    """
    output = os.open(
        paths.learner / "learner.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
    )
    try:
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "edge_agent.learner"),
                *("--config", str(config_file), "--invitation", str(paths.invitation)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    finally:
        os.close(output)
    return child


def end_orphan(paths: StatePaths, proc: Path = Path("/proc")) -> bool:
    """End the learner that a killed agent left behind: one run must not hold two answers of one device.

    The process is recognised by its own command line, because a pid may have been given to someone else since.

    Returns:
        Whether there was one.
    """
    content = read_bytes(paths.learner / "pid")
    if content is None or not content.isdigit():
        return False
    try:
        command = (proc / content.decode() / "cmdline").read_bytes()
        if b"edge_agent.learner" not in command or str(paths.invitation).encode() not in command:
            return False
        os.kill(int(content), signal.SIGTERM)
    except (OSError, OverflowError):
        return False
    finally:
        (paths.learner / "pid").unlink(missing_ok=True)
    log.info("orphaned_learner_ended pid=%s", content.decode())
    return True


def _last_run(path: Path) -> str:
    try:
        return (read_bytes(path) or b"").decode("utf-8", "replace")
    except StorageError:
        return ""
