"""Where everything that the agent writes lies in its state directory."""

from __future__ import annotations

from pathlib import Path

__all__ = ["StatePaths"]


class StatePaths:
    """Where everything lies in the state directory; names only, nothing is created."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.device_key = root / "device.key"
        self.enrolment = root / "enrolment.json"
        self.connection = root / "connection.pem"
        self.boot = root / "boot.json"
        self.standardiser = root / "standardiser.json"
        self.detection = root / "detection.json"
        self.detector = root / "detector.json"
        self.drift = root / "drift.state"
        self.bundles = root / "bundles"
        self.trust = root / "trust"
        self.install_journal = root / "install.json"
        self.outbox = root / "outbox.sqlite"
        self.buffer = root / "buffer"
        self.set_aside = root / "set_aside"
        self.commissioning = root / "commissioning"
        self.commissioning_progress = root / "commissioning.json"
        self.recommission = root / "recommission.json"
        self.outdated = root / "outdated"
        self.clock = root / "clock.json"
        self.commands = root / "commands.json"
        self.source = root / "source.json"
        self.status = root / "status.json"
        self.counters = root / "counters.json"
        self.score_log = root / "scores.csv"
        self.privacy = root / "privacy.sqlite"
        self.snapshot = root / "snapshot"
        self.learner = root / "learner"
        self.anchor = root / "anchor"
        self.learner_stats = root / "learner_stats.json"
        self.invitation = root / "learner" / "invitation.json"
        self.ended_invitations = root / "learner" / "ended_invitations.json"
