"""Who holds a release key publishes to a real fleet: again, at once with others, killed between, and with servers that lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from fleet_api_world import Fleet, fleet
from fleet_world import RELEASE_KEY, bundle
from secret_file import secret_file
from sqlalchemy import delete

from aggregator.errors import FleetRefusedError, FleetUnreachableError, UntrustedListError
from aggregator.publishing import PublishingFleet
from aggregator.release_listing import LIFETIME_S, ListedFile, sign_list
from aggregator.settings import FleetSettings
from fleet.storage.release_tables import Release
from fleet.trust.metadata import DAY_S
from fleet.trust.repository import TrustRepository
from protocol.errors import UntrustedBundleError
from protocol.names import FamilyName
from service.roles import Role

__all__ = ["fleet"]  # the fixture

ROLE = "family-pump"
PUMP = FamilyName("pump")


class Aggregator(PublishingFleet):
    """One whose road leads straight into the fleet's app; `lies` stands for whoever holds the server."""

    def __init__(
        self, fleet: Fleet, folder: Path, key: Ed25519PrivateKey = RELEASE_KEY, **options: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        token = secret_file(folder / "token", fleet.tokens[Role.PUBLISHER])
        # never looked at: no connection is made
        settings = FleetSettings(url="https://fleet", ca_file=Path(certifi.where()), token_file=token)
        super().__init__(
            settings, key, directory=folder / "lists", now=options.pop("now", time.time), **options
        )
        self._http = TestClient(
            fleet.client.app, headers={"Authorization": f"Bearer {fleet.tokens[Role.PUBLISHER]}"}
        )
        self.lies: dict[str, bytes] = {}

    def release_list(self, role: str) -> bytes | None:
        return self.lies.get(role) or super().release_list(role)


def listed(fleet: Fleet) -> dict[int, str]:
    found = TrustRepository(fleet.folder / "data" / "trust").published().roles.get(ROLE)
    files = found.signed.targets if found else {}
    return {
        int(path.split("/")[2].removesuffix(".fedge")): file.hashes["sha256"] for path, file in files.items()
    }


def version(fleet: Fleet) -> int:
    found = TrustRepository(fleet.folder / "data" / "trust").published().roles.get(ROLE)
    return found.signed.version if found else 0


def pump(number: int) -> bytes:
    return bundle(number, family="pump")


def test_publishing_lists_and_publishing_again_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    aggregator = Aggregator(fleet, tmp_path / "one")
    aggregator.publish(pump(1))
    aggregator.publish(pump(2))
    assert {1, 2} <= listed(fleet).keys()
    before = version(fleet)
    aggregator.publish(pump(1))
    Aggregator(fleet, tmp_path / "another-machine").publish(pump(2))
    assert version(fleet) == before


def test_publishers_at_once_all_get_their_release_listed(fleet: Fleet, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def publish(numbers: range, folder: str) -> None:
        try:
            one = Aggregator(fleet, tmp_path / folder)
            for number in numbers:
                while True:
                    try:
                        one.publish(pump(number))
                    except FleetUnreachableError:
                        continue
                    break
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(range(at, at + 3), f"p{at}")) for at in (10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {10, 11, 12, 20, 21, 22, 30, 31, 32} <= listed(fleet).keys()


def test_a_fleet_that_lost_its_database_lists_on_once_all_that_is_listed_was_handed_in_again(
    fleet: Fleet, tmp_path: Path
) -> None:
    aggregator = Aggregator(fleet, tmp_path / "one")
    aggregator.publish(pump(900))
    aggregator.publish(pump(1800))
    with fleet.database.write() as session:
        session.execute(delete(Release))
    with pytest.raises(FleetUnreachableError, match=r"the fleet lost releases .* leaves it out"):
        aggregator.publish(pump(1801))
    with pytest.raises(FleetRefusedError, match=r"2802 is more than 1000 beyond 1801"):
        aggregator.publish(pump(2802))
    kept = [fleet.folder / "data" / "releases" / f"{sha256}.fedge" for sha256 in listed(fleet).values()]
    for file in kept:
        with suppress(FleetUnreachableError):
            aggregator.publish(file.read_bytes())
    aggregator.publish(pump(1801))
    assert {900, 1800, 1801} <= listed(fleet).keys()


class _KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", ["after the bundle", "after signing", "after the list was taken"])
def test_a_kill_between_bundle_and_list_is_made_good_by_doing_it_again(
    at: str, fleet: Fleet, tmp_path: Path
) -> None:
    number = 40 + len(at)
    real: Callable[[str, bytes], None]
    one = Aggregator(fleet, tmp_path / "killed")
    real = one.publish_list

    def cut(role: str, content: bytes) -> None:
        if at == "after the list was taken":
            real(role, content)
        raise _KilledError

    if at == "after the bundle":
        one._list = cut  # type: ignore[assignment,method-assign] # it is killed before
    else:
        one.publish_list = cut  # type: ignore[method-assign] # the road breaks
    with pytest.raises(_KilledError):
        one.publish(pump(number))
    again = Aggregator(fleet, tmp_path / "killed")
    again.publish(pump(number))
    assert number in listed(fleet)
    before = version(fleet)
    again.publish(pump(number))
    assert version(fleet) == before


def test_a_list_that_no_trusted_key_signed_is_never_added_to(fleet: Fleet, tmp_path: Path) -> None:
    one = Aggregator(fleet, tmp_path / "one")
    evil = sign_list(
        {"pump/666": ListedFile(sha256="0" * 64, length=4)}, 50, Ed25519PrivateKey.generate(), time.time()
    )
    one.lies[ROLE] = evil
    before = version(fleet)
    with pytest.raises(UntrustedListError, match="none of the keys"):
        one.publish(pump(60))
    for nonsense in (b"{}", b"", b"[" * 10_000, evil[:-1], b"x" * 300_000):
        one.lies[ROLE] = nonsense or b"\n"
        with pytest.raises(UntrustedListError):
            one.publish(pump(60))
    assert version(fleet) == before


def test_a_server_cannot_have_listed_again_what_was_taken_back(fleet: Fleet, tmp_path: Path) -> None:
    one = Aggregator(fleet, tmp_path / "one")
    one.publish(pump(70))
    old = one.release_list(ROLE)
    assert old is not None
    fleet.call(
        "POST",
        "/v1/releases/pump/70:withdraw",
        Role.OPERATOR,
        json={"confirm": "pump/70", "reason": "alarms"},
    )
    one.publish(pump(71))
    assert 70 not in listed(fleet), "withdrawn, and no device shall run it"
    one.lies[ROLE] = old
    records = one.releases
    one.releases = lambda family: [  # type: ignore[method-assign,assignment] # the server says that it was never withdrawn
        type(record)(release=record.release, version=record.version) for record in records(family)
    ]
    one.publish(pump(72))
    assert 70 not in listed(fleet)
    assert {71, 72} <= listed(fleet).keys()


def test_a_list_is_signed_anew_at_half_of_its_time_and_comes_back_to_a_fleet_that_lost_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    one = Aggregator(fleet, tmp_path / "one")
    one.publish(pump(80))
    before = version(fleet)
    assert not one.keep_listed(PUMP)
    late = Aggregator(fleet, tmp_path / "one", now=lambda: time.time() + LIFETIME_S / 2 + DAY_S)
    with pytest.raises(FleetRefusedError, match="ends in"):  # by the fleet's clock it would last too long
        late.keep_listed(PUMP)
    one.publish(pump(81))
    assert version(fleet) > before
    one.lies[ROLE] = sign_list({}, 1, RELEASE_KEY, time.time())  # a fleet that came back from an old backup
    assert one.keep_listed(PUMP)
    assert {80, 81} <= listed(fleet).keys()


def test_a_family_that_nobody_delegated_to_and_a_bundle_of_another_key_are_refused_in_words(
    fleet: Fleet, tmp_path: Path
) -> None:
    one = Aggregator(fleet, tmp_path / "one")
    assert not one.keep_listed(FamilyName("unheard"))
    with pytest.raises(FleetRefusedError, match="not trusted here"):
        one.publish(bundle(1, family="unheard"))
    with pytest.raises(UntrustedBundleError):
        one.publish(bundle(1, family="pump", key=Ed25519PrivateKey.generate()))


def test_a_new_release_key_goes_on_with_the_list_of_the_former(fleet: Fleet, tmp_path: Path) -> None:
    new = Ed25519PrivateKey.generate()
    one = Aggregator(fleet, tmp_path / "one", key=new, trusted=[RELEASE_KEY.public_key()])
    Aggregator(fleet, tmp_path / "former").publish(pump(90))
    with pytest.raises(FleetRefusedError, match="not trusted here"):  # nobody has delegated to it yet
        one.publish(bundle(91, family="pump", key=new))
