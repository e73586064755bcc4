"""``fedge-agent enrol``: ask, and where a person must approve, say so and ask again with pauses that grow."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Final

from edge_agent.enrolment import enrol_device
from edge_agent.errors import FleetUnreachableError
from edge_agent.settings import Settings
from runtime.backoff import backoff_s

__all__ = ["WAITING", "enrol_and_wait"]

WAITING: Final = 75
"""The exit status where a person must approve first: ask again later (EX_TEMPFAIL of sysexits.h)."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 4.0, 60.0


def enrol_and_wait(
    settings: Settings, *, is_patient: bool, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Enrol; returns the exit status. Raises as `enrol_device`, but goes on waiting while the fleet is away for a moment."""
    asked = 0
    while True:
        try:
            enrolled = enrol_device(settings)
        except FleetUnreachableError:
            if not asked:
                raise
        else:
            if not enrolled.is_waiting:
                print(
                    f"enrolled as device {enrolled.device} of tenant {enrolled.tenant}, family {enrolled.family}"
                )
                return 0
            if not asked:
                print(
                    f"device {enrolled.device} waits for a person at the fleet: fedge-fleet devices approve {enrolled.device}\n"
                    f"the fingerprint of its key, for that person to compare: {enrolled.fingerprint}",
                    file=sys.stderr,
                )
            if not is_patient:
                return WAITING
        asked += 1
        try:
            sleep(
                backoff_s(asked, first_s=_FIRST_PAUSE_S, maximum_s=_LONGEST_PAUSE_S, draw=random.random())  # noqa: S311 - spreads devices, no secret
            )
        except KeyboardInterrupt:
            print("still waiting; `fedge-agent run` watches meanwhile, and asks by itself", file=sys.stderr)
            return WAITING
