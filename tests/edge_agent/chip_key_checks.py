"""Identity keys in chips: SoftHSM's token and a TPM 2.0, the real libraries, and what a device makes of a chip that fails."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pkcs11
import pytest
from chips import PIN, Chip, softhsm, tpm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from enrolling_fleet import EnrollingFleet, settings
from https_world import serving

from edge_agent import chip_key
from edge_agent.chip_key import ChipKey
from edge_agent.enrolment import device_name, enrol_device
from edge_agent.errors import IdentityKeyError
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.identity_key import make_identity, open_identity
from edge_agent.settings import IdentitySettings
from protocol.identity import issue_token, sign_statement, verify_statement, verify_token
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import DeathReason
from protocol.messages.payloads import Death
from protocol.sealed_events import check_seal, seal
from protocol.signed_requests import RequestSigner, read_request

# python-pkcs11 ends a search when its object ends, and the token may be gone by then
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=[softhsm, tpm], ids=["softhsm", "tpm"])
def chip(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    with request.param(tmp_path / "chip", monkeypatch) as made:
        yield made
        gc.collect()  # what the library is asked by objects that end comes before its own end


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    with softhsm(tmp_path / "chip", monkeypatch) as made:
        yield made
        gc.collect()


def signs(key: ChipKey, public: EllipticCurvePublicKey) -> bool:
    verify_statement(public, "test/v1", b"said", sign_statement(key, "test/v1", b"said"))
    return True


def test_a_key_that_is_made_in_a_chip_signs_as_one_in_a_file_does(chip: Chip) -> None:
    key = ChipKey(chip.settings)
    with pytest.raises(IdentityKeyError, match="holds no key of that label; `fedge-agent enrol` makes it"):
        key.public_key()
    key.make_if_missing()
    public = key.public_key()
    assert signs(key, public)
    assert verify_token(issue_token(key, "pump-07", "fleet", 1e9), public, "fleet", 1e9) == "pump-07"
    request = RequestSigner(key, public, clock=lambda: 0.0).sign("POST", "/v1/fleet/push", b"body")
    read_request(request, "POST", "/v1/fleet/push").check(public)
    event = Event(source="pump-07", boot_id="b1", sequence=1, time=1e9, data=Death(reason=DeathReason.LOST))
    sealed = seal(event, key, tenant="demo", device="pump-07", nonce="0" * 32)
    check_seal(decode(encode(sealed)), [public], tenant="demo", device="pump-07", now_s=1e9)
    key.make_if_missing()
    again = ChipKey(chip.settings)
    assert again.public_key() == public, "made once"
    assert signs(again, public)


def test_the_private_half_does_not_leave_the_chip(token: Chip) -> None:
    key = ChipKey(token.settings)
    key.make_if_missing()
    library = pkcs11.lib(str(token.settings.module))
    session = library.get_token(token_label="fedge").open()
    found = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=token.settings.key)
    assert found[pkcs11.Attribute.EXTRACTABLE] is False
    with pytest.raises(pkcs11.PKCS11Error):
        _ = found[pkcs11.Attribute.VALUE]


def test_many_threads_sign_with_one_key(chip: Chip) -> None:
    key = ChipKey(chip.settings)
    key.make_if_missing()
    public, failures = key.public_key(), list[Exception]()

    def sign() -> None:
        try:
            for _ in range(5):
                signs(key, public)
        except Exception as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=sign) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_chip_that_went_away_for_a_moment_signs_again(chip: Chip) -> None:
    key = ChipKey(chip.settings)
    key.make_if_missing()
    public = key.public_key()
    chip.go_away()
    for _ in range(2):
        with pytest.raises(IdentityKeyError, match="cannot be used") as told:
            sign_statement(key, "test/v1", b"said")
        assert "\n" not in str(told.value)
    chip.come_back()
    assert signs(key, public)


class CountedLibrary:
    """A PKCS#11 library, and how often it was begun anew."""

    beginnings = 0

    def __init__(self, module: str) -> None:
        self._library = pkcs11.lib(module)

    def get_token(self, **names: str) -> pkcs11.Token:
        return self._library.get_token(**names)

    def reinitialize(self) -> None:
        CountedLibrary.beginnings += 1
        self._library.reinitialize()


def test_two_objects_of_one_process_share_the_chip(token: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ChipKey(token.settings), ChipKey(token.settings)
    first.make_if_missing()
    public = first.public_key()
    monkeypatch.setattr(chip_key, "pkcs11", SimpleNamespace(lib=CountedLibrary))
    for _ in range(3):
        assert second.public_key() == public
        assert signs(second, public)
        assert signs(first, public)
    assert CountedLibrary.beginnings == 0, "neither ends the other's session"
    token.go_away()
    with pytest.raises(IdentityKeyError):
        sign_statement(second, "test/v1", b"said")
    token.come_back()
    assert signs(first, public)
    assert signs(second, public)


def test_a_pin_that_was_refused_is_told_without_it_and_not_tried_again_until_it_is_another(
    token: Chip, caplog: pytest.LogCaptureFixture
) -> None:
    ChipKey(token.settings).make_if_missing()
    pkcs11.lib(str(token.settings.module)).reinitialize()  # logged out
    token.settings.pin_file.write_text("7777777\n")
    key = ChipKey(token.settings)
    with pytest.raises(IdentityKeyError, match=r"the token refuses the PIN of .*pin") as first:
        key.public_key()
    with pytest.raises(IdentityKeyError, match="holds the PIN that the token refused") as second:
        key.public_key()
    for told in (str(first.value), str(second.value), caplog.text):
        assert "7777777" not in told
    token.settings.pin_file.write_text(f"{PIN}\n")
    assert signs(key, key.public_key())


def test_what_a_person_must_mend_is_one_line_each(token: Chip, tmp_path: Path) -> None:
    def told(**changes: object) -> str:
        with pytest.raises(IdentityKeyError) as error:
            ChipKey(msgspec.structs.replace(token.settings, **changes)).public_key()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is not a PKCS#11 library that can be loaded" in told(module=tmp_path / "none.so")
    (tmp_path / "text.so").write_text("no library")
    assert "is not a PKCS#11 library that can be loaded" in told(module=tmp_path / "text.so")
    assert "there is no token of that label; is the chip there, and set up?" in told(token="other")
    assert "holds no key of that label" in told(key="other")
    assert f"{tmp_path / 'none'} is missing" in told(pin_file=tmp_path / "none")


def test_a_device_enrols_with_the_key_of_its_chip_and_leaves_none_on_its_disk(
    chip: Chip, tmp_path: Path
) -> None:
    fleet = EnrollingFleet()
    with serving(tmp_path / "tls", fleet) as server:
        mine = msgspec.structs.replace(settings(tmp_path, server.url, server.ca_file), identity=chip.settings)
        enrolled = enrol_device(mine)
        assert enrolled.device == device_name(make_identity(mine).public_key())
        assert not mine.paths.device_key.exists()
        client = FleetClient(
            endpoint=FleetEndpoint(url=server.url, ca_file=server.ca_file),
            device=enrolled.device,
            key=open_identity(mine),
        )
        request = fleet.asked[0].certificate_request
        assert "BEGIN CERTIFICATE" in client.certificate(request)


def test_a_chip_without_its_python_library_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    monkeypatch.delitem(sys.modules, "edge_agent.chip_key")
    mine = settings(tmp_path, "https://127.0.0.1:1", tmp_path / "ca.pem")
    chip = IdentitySettings(module=Path("/x.so"), token="fedge", pin_file=tmp_path / "pin")
    with pytest.raises(IdentityKeyError, match=r"pip install 'fedge\[pkcs11\]'"):
        open_identity(msgspec.structs.replace(mine, identity=chip))
