"""The certificate for the broker: fetched, renewed before it ends or after, refused, waited for. A real fleet's answers over real TLS."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from enrolling_fleet import EnrollingFleet, settings
from https_world import serving
from waiting import wait_until

from edge_agent.certificate_keeper import CertificateKeeper
from edge_agent.connection_certificate import read_lifetime
from edge_agent.enrolled import Enrolled, load_enrolled
from edge_agent.enrolment import enrol_device
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.identity_key import open_identity
from edge_agent.settings import Settings

pytestmark = pytest.mark.edge

DAY_S = 86_400.0
ONE_LIFE_S = 30.05 * DAY_S


@dataclass
class Hands:
    """Clocks that stand until they are told to go on, and a link that counts."""

    wall: float = field(default_factory=time.time)
    boot: float = 100.0
    is_known: bool = True
    refusals: int = 0
    reconnections: int = 0

    def wall_s(self) -> float:
        return self.wall

    def known_s(self) -> float | None:
        return self.wall if self.is_known else None

    def boot_s(self) -> float:
        return self.boot

    def reconnect(self) -> None:
        self.reconnections += 1

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


@dataclass
class Device:
    fleet: EnrollingFleet
    settings: Settings
    hands: Hands
    keeper: CertificateKeeper

    @property
    def path(self) -> Path:
        return self.settings.paths.connection

    def later(self, seconds: float) -> int:
        """Turn after so long; returns how many certificates the fleet has given since the enrolment."""
        self.hands.pass_s(seconds)
        self.fleet.ahead_days += seconds / DAY_S
        self.keeper.turn()
        return len(self.fleet.issued) - 1


@contextmanager
def device(
    root: Path, fleet: EnrollingFleet | None = None, *, draw: float = 0.5, url: str = ""
) -> Iterator[Device]:
    fleet = fleet or EnrollingFleet()
    with serving(root / "tls", fleet) as server:
        mine = settings(root, server.url, server.ca_file)
        enrolled = enrol_device(mine)
        hands = Hands()
        client = FleetClient(
            endpoint=FleetEndpoint(url=url or server.url, ca_file=server.ca_file),
            device=enrolled.device,
            key=open_identity(mine),
        )
        keeper = CertificateKeeper(mine, enrolled, client, clock=hands, link=hands, draw=lambda: draw)
        yield Device(fleet, mine, hands, keeper)


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.6), (0.5, 0.667), (0.999, 0.733)])
def test_a_certificate_is_renewed_at_two_thirds_of_its_life_give_or_take(
    tmp_path: Path, draw: float, share: float
) -> None:
    with device(tmp_path, draw=draw) as mine:
        assert mine.later(0) == 0
        before = mine.path.read_bytes()
        assert mine.later((share - 0.01) * ONE_LIFE_S) == 0
        assert mine.later(0.02 * ONE_LIFE_S) == 1
        assert mine.path.read_bytes() != before
        assert mine.hands.reconnections == 1
        assert mine.keeper.trouble == ""
        assert mine.later(3600) == 1, "and then not for another two thirds"


def test_a_certificate_that_ended_long_ago_is_renewed_like_any_other(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        assert mine.later(400 * DAY_S) == 1


def test_a_device_that_does_not_know_the_date_goes_by_the_time_that_nobody_can_set(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.hands.is_known = False
        mine.hands.wall -= 300 * DAY_S  # a board without a battery: long before the certificate began
        assert mine.later(0) == 0
        assert mine.later(9 * DAY_S) == 0
        assert mine.later(2 * DAY_S) == 1


def test_a_clock_that_is_years_ahead_and_kept_by_nobody_does_not_have_certificates_made_for_ever(
    tmp_path: Path,
) -> None:
    with device(tmp_path) as mine:
        mine.hands.is_known = False
        mine.hands.wall += 20 * 365 * DAY_S
        assert mine.later(0) == 1, "it may be right"
        for _hour in range(48):
            assert mine.later(3600) == 1, "it is not: the new one cannot be near its end"
        assert mine.later(9 * DAY_S) == 2


def test_a_broker_that_refuses_again_and_again_has_the_certificate_renewed_and_not_in_a_storm(
    tmp_path: Path,
) -> None:
    with device(tmp_path) as mine:
        mine.hands.refusals = 2
        assert mine.later(0) == 0, "one or two may be a broker that starts"
        mine.hands.refusals = 3
        assert mine.later(5) == 1
        assert mine.later(5) == 1, "the new one is to be tried first"
        for _minute in range(180):
            mine.hands.refusals += 5
            mine.later(60)
        assert 3 < len(mine.fleet.issued) < 20, "less and less often, while the broker goes on refusing"


def test_a_revoked_device_says_why_and_does_not_ask_in_a_storm(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.later(0)
        mine.fleet.revoked = True
        mine.later(0.8 * ONE_LIFE_S)
        assert "gives this device no certificate" in mine.keeper.trouble
        assert "is revoked" in mine.keeper.trouble
        before = mine.path.read_bytes()
        mine.later(5)
        assert mine.path.read_bytes() == before, "what there was stays"
        mine.fleet.revoked = False
        assert mine.later(3600) == 1
        assert mine.keeper.trouble == ""


def test_a_fleet_that_is_away_is_told_of_when_the_certificate_is_about_to_end(tmp_path: Path) -> None:
    with device(tmp_path, url="https://127.0.0.1:1") as mine:
        mine.later(0.75 * ONE_LIFE_S)
        assert mine.keeper.trouble == "", "there is a week left"
        mine.later(0.1 * ONE_LIFE_S)
        assert "no new certificate for the broker" in mine.keeper.trouble
        assert "nothing listens there" in mine.keeper.trouble


STRANGER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "lie",
    [{"name": "pump-9"}, {"key": STRANGER.public_key()}, {"signed_by": STRANGER}, {"ends_days": 9000}],
    ids=["another name", "another key", "another CA", "for ever"],
)
def test_a_certificate_that_is_not_right_never_takes_the_place_of_one_that_works(
    tmp_path: Path, lie: dict[str, object]
) -> None:
    with device(tmp_path) as mine:
        mine.later(0)
        before = mine.path.read_bytes()
        mine.fleet.lie = lie
        mine.later(0.9 * ONE_LIFE_S)
        assert mine.path.read_bytes() == before
        assert mine.hands.reconnections == 0
        assert "certificate for this device is refused" in mine.keeper.trouble


def test_a_disk_that_is_full_keeps_the_certificate_there_was_and_the_next_try_brings_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with device(tmp_path) as mine:
        mine.later(0)
        before = mine.path.read_bytes()
        with monkeypatch.context() as disk:
            disk.setattr(Path, "replace", full)
            mine.later(0.85 * ONE_LIFE_S)
        assert "No space left on device" in mine.keeper.trouble
        assert mine.path.read_bytes() == before
        mine.later(3600)
        assert mine.path.read_bytes() != before
        assert mine.keeper.trouble == ""


def test_a_connection_key_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.path.chmod(0o644)
        mine.later(0)
        assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("spoiled", [None, b"", b"-----BEGIN PRIVATE KEY-----\nMIG"])
def test_a_device_without_a_usable_certificate_fetches_one_by_its_identity_key(
    tmp_path: Path, spoiled: bytes | None
) -> None:
    with device(tmp_path) as mine:
        if spoiled is None:
            mine.path.unlink()
        else:
            mine.path.write_bytes(spoiled)
        assert mine.later(0) == 1
        assert read_lifetime(mine.path, load_enrolled(mine.settings.paths.enrolment).device) is not None


def test_a_certificate_that_a_person_fetched_meanwhile_is_shown_without_a_restart(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.later(0)
        enrol_device(mine.settings)
        mine.later(5)
        assert mine.hands.reconnections == 1


def test_a_device_that_waits_is_let_in_when_a_person_has_approved_it(tmp_path: Path) -> None:
    with device(tmp_path, EnrollingFleet(approves=False)) as mine:
        pauses = [mine.keeper.turn() for _ in range(12)]
        assert pauses == sorted(pauses), "less and less often"
        assert pauses[-1] >= 300
        assert load_enrolled(mine.settings.paths.enrolment).fingerprint in mine.keeper.trouble, "to compare"
        assert (
            "waits until a person at the fleet approves it (fedge-fleet devices approve"
            in mine.keeper.trouble
        )
        mine.fleet.approves = True
        assert mine.keeper.turn() == 0
        mine.keeper.turn()
        assert mine.keeper.trouble == ""
        assert not load_enrolled(mine.settings.paths.enrolment).is_waiting
        assert mine.path.exists()


def test_a_device_that_waits_needs_no_claim_any_more_once_it_is_known(tmp_path: Path) -> None:
    with device(tmp_path, EnrollingFleet(approves=False)) as mine:
        (tmp_path / "claim.token").unlink()
        mine.keeper.turn()
        assert "waits for a person" in mine.keeper.trouble
        mine.fleet.approves = True
        mine.keeper.turn()
        mine.keeper.turn()
        assert mine.keeper.trouble == ""
        assert not load_enrolled(mine.settings.paths.enrolment).is_waiting
        assert mine.path.exists()


def test_whatever_goes_wrong_the_keeper_lives_and_says_it(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.path.unlink()
        mine.path.mkdir()
        mine.keeper.start()
        try:
            told = wait_until(lambda: mine.keeper.trouble, "the keeper to say it")
            assert "certificate for the broker" in told
        finally:
            mine.keeper.close()


def test_a_device_that_talks_over_https_alone_needs_no_certificate(tmp_path: Path) -> None:
    with device(tmp_path) as mine:
        mine.path.unlink()
        enrolled: Enrolled = load_enrolled(mine.settings.paths.enrolment)
        client = FleetClient(
            endpoint=FleetEndpoint(url="https://127.0.0.1:1", ca_file=tmp_path / "tls" / "ca.pem"),
            device=enrolled.device,
            key=open_identity(mine.settings),
        )
        keeper = CertificateKeeper(mine.settings, enrolled, client, clock=mine.hands, link=None)
        keeper.turn()
        assert keeper.trouble == ""
