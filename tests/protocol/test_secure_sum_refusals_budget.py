"""A device whose participations are spent, or cannot be booked, does not take part; one that takes part is booked once."""

from __future__ import annotations

import pytest
from secure_sum_rehearsal import announcement, new_device
from secure_sum_stages import ME, ROSTER, assert_forgotten, mask, masked, shared

from protocol.secure_sum.errors import BudgetSpentError
from protocol.secure_sum.messages import Announcement

pytestmark = pytest.mark.edge


class Purse:
    """A budget with some participations left; the answer to the n-th question is `answers[n]`."""

    def __init__(self, *answers: str | None, fails: bool = False) -> None:
        self.answers = list(answers)
        self.fails = fails
        self.spent = 0

    def objection(self, announcement: Announcement) -> str | None:
        return self.answers.pop(0)

    def spend(self, announcement: Announcement) -> None:
        if self.fails:
            raise OSError("disk full")
        self.spent += 1


def test_a_spent_budget_ends_the_round_before_anything_is_said() -> None:
    role = new_device(ME, roster=ROSTER, budget=Purse("100 of 100 participations are spent"))
    with pytest.raises(BudgetSpentError, match="100 of 100 participations are spent"):
        role.advertise(announcement(6))
    assert_forgotten(role)


def test_a_budget_spent_meanwhile_ends_the_round_before_the_input_leaves() -> None:
    purse = Purse(None, "spent by another run")
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    with pytest.raises(BudgetSpentError, match="spent by another run"):
        mask(played)
    assert_forgotten(played.roles[ME])
    assert purse.spent == 0


def test_an_input_that_cannot_be_booked_does_not_leave() -> None:
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=Purse(None, None, fails=True))})
    with pytest.raises(OSError, match="disk full"):
        mask(played)
    assert_forgotten(played.roles[ME])


def test_a_participation_is_booked_once() -> None:
    purse = Purse(None, None)
    played = masked(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    played.unmask()
    played.server.finish()
    assert purse.spent == 1
