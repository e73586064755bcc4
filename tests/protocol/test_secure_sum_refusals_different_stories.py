"""A server that tells devices different stories: another model, invented devices, another identity. The signatures give it away."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from secure_sum_rehearsal import announcement, new_device
from secure_sum_stages import IDS, ME, ROSTER, advertised, assert_forgotten, edited, ten

from protocol.secure_sum.advertisements import advertisement_digest
from protocol.secure_sum.errors import AdvertisementError, AnnouncementMismatchError, UnknownDeviceError
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import CohortBook

pytestmark = pytest.mark.edge


def test_devices_that_were_announced_different_models_do_not_go_on_together() -> None:
    """Even if the server signs nothing of its own: the neighbours' signatures give the other model away."""
    played = ten()
    other = announcement(6, model_hash=hashlib.sha256(b"another model").digest())
    books = {}
    for device in IDS:
        shown = other if device == ME else played.announcement
        books[device] = played.roles[device].advertise(shown)
    book = CohortBook(
        session="session-0001",
        round_number=7,
        degree=9,
        threshold=6,
        generator=MaskGenerator.AES_128_CTR,
        cohort=tuple(IDS),
        digests=b"".join(advertisement_digest(books[device]) for device in IDS),
        neighbours=(),
    )
    for device in IDS:
        others = tuple(books[peer] for peer in IDS if peer != device)
        with pytest.raises(AnnouncementMismatchError, match="was announced another round"):
            played.roles[device].share_keys(edited(book, neighbours=others))


def test_a_cohort_of_devices_the_fleet_does_not_know_is_refused() -> None:
    """A server that invents devices to surround one: it can sign for them, but the roster is the fleet's."""
    roster = {ME: ROSTER[ME]}
    role = new_device(ME, roster=roster)
    mine = role.advertise(announcement(6))
    invented = [new_device(device, roster=ROSTER) for device in IDS if device != ME]
    sent = {a.device: a for a in (mine, *(device.advertise(announcement(6)) for device in invented))}
    book = CohortBook(
        session="session-0001",
        round_number=7,
        degree=9,
        threshold=6,
        generator=MaskGenerator.AES_128_CTR,
        cohort=tuple(IDS),
        digests=b"".join(advertisement_digest(sent[device]) for device in IDS),
        neighbours=tuple(a for a in sent.values() if a.device != ME),
    )
    with pytest.raises(UnknownDeviceError, match="does not know 'd00000', 'd00001', 'd00002' and 6 more"):
        role.share_keys(book)
    assert_forgotten(role)


def test_an_identity_key_of_another_curve_position_is_not_mistaken_for_the_device_s() -> None:
    roster = dict(ROSTER)
    roster[IDS[0]] = ec.generate_private_key(ec.SECP256R1()).public_key()
    played = advertised(roles={ME: new_device(ME, roster=roster)})
    with pytest.raises(AdvertisementError, match="'d00000' are not signed"):
        played.roles[ME].share_keys(played.to_devices[ME])
