"""A process that installs and kills itself (SIGKILL) at one point: `python installation_victim.py ROOT VERSION STEP before|after`.

``before``: just before the journal says STEP; ``after``: just after. The bundle comes from memory, everything else is real.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from installation_world import Device, make_bundle

from edge_agent.installation.journal import Journal
from edge_agent.installation.journal_file import JournalFile
from protocol.messages.kinds import InstallStep


class DeadlyJournal(JournalFile):
    def __init__(self, path: Path, step: str, moment: str) -> None:
        super().__init__(path)
        self._step, self._moment = step, moment

    def save(self, journal: Journal) -> None:
        step = (
            journal.attempt.step
            if journal.attempt
            else journal.outcomes[-1].step
            if journal.outcomes
            else None
        )
        if step == self._step and self._moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(journal)
        if step == self._step and self._moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    root, version, step, moment, verdict = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    device = Device(root, journal_file=DeadlyJournal(root / "install.json", step, moment))
    device.submit(device.fleet.offer(make_bundle(version), version))
    device.watch(error=None if verdict == "good" else "the interpreter refused the window")
    sys.exit(f"still alive at {InstallStep(step)}")


if __name__ == "__main__":
    main()
