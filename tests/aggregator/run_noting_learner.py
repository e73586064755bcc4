"""Starts the learner like a device and notes, in the device's own directory, what it had to hide; it may be told to hide it badly.

``role.txt`` beside ``agent.toml`` names the class of `leaky_roles` to run, or ``DeviceRole``. Each masked answer leaves a file
``noted-<n>.npz`` with the answer (float32) and its words before any mask (uint32), so that a test knows what to look for.
"""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "protocol"))

import leaky_roles  # noqa: E402 - needs the path above
import numpy as np  # noqa: E402 - needs the path above

from edge_agent.learner import sum_participant  # noqa: E402 - needs the path above
from edge_agent.learner.local_learner import LocalLearner  # noqa: E402 - needs the path above

DIRECTORY = Path(sys.argv[sys.argv.index("--config") + 1]).parent
ROLE = getattr(leaky_roles, (DIRECTORY / "role.txt").read_text())
answers = []
plainly = LocalLearner.answer


class NotingRole(ROLE):
    """Hides what its class hides, after writing it down."""

    def _hide(self, words, begun, settled):
        np.savez(DIRECTORY / f"noted-{len(answers)}.npz", answer=answers[-1], words=words)
        super()._hide(words, begun, settled)


def noting(learner, question, arrays):
    answers.append(plainly(learner, question, arrays))
    return answers[-1]


LocalLearner.answer = noting
sum_participant.DeviceRole = NotingRole
runpy.run_path(str(HERE / "run_learner_without_server_packages.py"), run_name="__main__")
