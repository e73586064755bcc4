"""A device's account is asked at every stage that gives something, and what cannot be booked does not leave."""

from __future__ import annotations

import pytest
from secure_sum_rehearsal import CONFIG, MODEL, announcement, new_device
from secure_sum_stages import IDS, ME, ROSTER, advertised, assert_forgotten, edited, masked, shared

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DeviceStage
from protocol.secure_sum.errors import StageOrderError, SurvivorMismatchError
from protocol.secure_sum.messages import Announcement

pytestmark = pytest.mark.edge


class SpentError(Exception):
    """What an account refuses with: its own words, which are nobody's business here."""


class Purse:
    """An account that refuses what `refuses` names, and writes down what it was asked."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.asked: list[tuple[str, frozenset[DeviceId]]] = []

    def check(self, announcement: Announcement) -> None:
        self._ask("check")

    def check_cohort(self, announcement: Announcement, cohort: frozenset[DeviceId]) -> None:
        self._ask("check_cohort", cohort)

    def charge(self, announcement: Announcement) -> None:
        self._ask("charge")

    def reveal(self, announcement: Announcement, survivors: frozenset[DeviceId]) -> None:
        self._ask("reveal", survivors)

    def _ask(self, what: str, devices: frozenset[DeviceId] = frozenset()) -> None:
        self.asked.append((what, devices))
        if what == self.refuses:
            raise SpentError(what)


def test_a_spent_account_ends_the_round_before_anything_is_said() -> None:
    role = new_device(ME, roster=ROSTER, budget=Purse("check"))
    with pytest.raises(SpentError):
        role.advertise(announcement(6))
    assert_forgotten(role)


def test_a_cohort_the_account_refuses_gets_no_share() -> None:
    played = advertised(roles={ME: new_device(ME, roster=ROSTER, budget=Purse("check_cohort"))})
    with pytest.raises(SpentError):
        played.roles[ME].share_keys(played.to_devices[ME])
    assert_forgotten(played.roles[ME])


def test_an_answer_that_cannot_be_charged_is_not_even_computed() -> None:
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=Purse("charge"))})
    with pytest.raises(SpentError):
        played.roles[ME].accept(played.to_devices[ME], model_hash=MODEL, config_hash=CONFIG)
    assert_forgotten(played.roles[ME])


def test_a_bad_delivery_is_refused_before_the_charge() -> None:
    purse = Purse()
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    delivery = played.to_devices[ME]
    with pytest.raises(SurvivorMismatchError):
        played.roles[ME].accept(
            edited(delivery, seals=delivery.seals[1:]), model_hash=MODEL, config_hash=CONFIG
        )
    assert "charge" not in dict(purse.asked)


def test_nothing_is_masked_that_was_not_charged() -> None:
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=Purse())})
    with pytest.raises(StageOrderError, match="'masked' was requested after 'shared'"):
        played.roles[ME].mask(played.vectors[ME])
    assert_forgotten(played.roles[ME])


def test_shares_whose_reveal_cannot_be_recorded_stay() -> None:
    played = masked(roles={ME: new_device(ME, roster=ROSTER, budget=Purse("reveal"))})
    with pytest.raises(SpentError):
        played.roles[ME].unmask(played.to_devices[ME])
    assert_forgotten(played.roles[ME])


def test_a_whole_round_asks_the_account_once_at_each_stage() -> None:
    purse = Purse()
    played = masked(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    played.unmask()
    played.server.finish()
    everybody = frozenset(IDS)
    assert purse.asked == [
        ("check", frozenset()),
        ("check_cohort", everybody),
        ("charge", frozenset()),
        ("reveal", everybody),
    ]
    assert played.roles[ME].stage is DeviceStage.REVEALED
