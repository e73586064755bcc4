"""What ``fedge status`` says, in words that do not contradict each other."""

from __future__ import annotations

import io

from rich.console import Console

from fleet.plant.status import PlantStatus
from fleet.plant.status_screen import draw_status
from fleet.rollouts.states import RolloutState
from fleet.views.rollouts import RolloutSummary

ROLLOUT = RolloutSummary(
    id="ro-1", name="first", family="pump", release="pump/1", state=RolloutState.COMPLETED, since=0.0,
    created_at=0.0, created_by="publisher", author=None, needs_approval=False, counts={"IN_PROGRESS": 4, "SUCCEEDED": 0},
)  # fmt: skip


def said(status: PlantStatus) -> str:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(draw_status(status, title="fedge", height=None))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_rollout_that_is_over_and_still_at_work_says_why() -> None:
    at_work = said(PlantStatus(at=0.0, rollouts=[ROLLOUT]))
    assert "ro-1 of pump/1: COMPLETED (4 in_progress); whoever comes later gets it too" in at_work
    over = ROLLOUT.model_copy(update={"counts": {"IN_PROGRESS": 0, "SUCCEEDED": 4}})
    assert "COMPLETED (4 succeeded)\n" in "\n".join(
        line.rstrip() for line in said(PlantStatus(at=0.0, rollouts=[over])).splitlines()
    )


def test_a_fleet_that_was_not_reached_is_no_empty_one() -> None:
    text = said(PlantStatus(at=0.0, is_reached=False, problems=["the fleet does not answer"]))
    assert "the fleet does not answer" in text
    assert "devices" not in text
