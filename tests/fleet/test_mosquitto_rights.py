"""A real Mosquitto with the fleet's files: whom it lets in, and what each may say and hear."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from mosquitto_site import SENTINEL, Client, MosquittoSite
from waiting import wait_until

from protocol.identity import private_key_pem
from protocol.messages.kinds import Kind
from protocol.topics import DOWNLINK_KINDS, UPLINK_KINDS, device_topic, training_topic

pytestmark = pytest.mark.slow
TENANT = "demo"
HEALTH = device_topic(TENANT, "d-1", Kind.HEALTH)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoSite]:
    """A broker with the files of a fleet that knows nobody yet: the certificate alone lets in."""
    folder = tmp_path_factory.mktemp("site")
    site = MosquittoSite(folder, f"sqlite:///{folder}/fleet.sqlite")
    site.start()
    yield site
    site.close()


def forged(
    folder: Path,
    name: str,
    *,
    starts_in: timedelta = timedelta(0),
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None = None,
) -> tuple[Path, Path]:
    """A certificate for an hour that says that its holder is `name`; without an authority it signs itself."""
    key, start = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) + starts_in
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = subject if authority is None else authority[1].subject
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(key if authority is None else authority[0], hashes.SHA256())
    )
    files = folder / f"{name}-forged.pem", folder / f"{name}-forged.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(private_key_pem(key))
    return files


def heard_by_the_fleet(site: MosquittoSite, speaker: Client) -> list[str]:
    """What came to the fleet of everything that was said before this."""
    fleet = site.connect("fleet")
    fleet.subscribe("fedge/v1/#")
    speaker.publish(HEALTH, SENTINEL)
    return fleet.topics_until_sentinel()


def test_who_shows_a_certificate_is_in_under_the_name_in_it_whatever_he_says_he_is(
    site: MosquittoSite,
) -> None:
    for name in ("aggregator", "d-2", "fleet"):
        assert site.connect(name).is_in
    fleet = site.connect("fleet")
    fleet.subscribe("fedge/v1/#")
    liar = site.connect("d-1", client_id="d-2", user="fleet")
    liar.publish(device_topic(TENANT, "d-2", Kind.HEALTH), "as d-2")
    liar.publish(HEALTH, SENTINEL)
    assert fleet.topics_until_sentinel() == []


def test_a_device_cannot_take_the_client_id_of_another_and_throw_it_out(site: MosquittoSite) -> None:
    victim = site.connect("d-2", will=device_topic(TENANT, "d-2", Kind.DEATH))
    for client_id in ("d-2", "fleet", "", "x" * 60_000, "\u2603/+/#"):
        assert site.connect("d-1", client_id=client_id).is_in
    victim.publish(device_topic(TENANT, "d-2", Kind.HEALTH), "still here")
    assert not victim.is_lost


def test_without_a_certificate_that_the_fleet_or_the_services_ca_signed_nobody_gets_in(
    site: MosquittoSite, tmp_path: Path
) -> None:
    stranger = trustme.CA()
    strangers = tmp_path / "stranger.pem", tmp_path / "stranger.key"
    leaf = stranger.issue_cert(common_name="fleet")
    strangers[0].write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(strangers[1])
    authority = site.device_ca_for_forgers()
    for own in (
        None,
        strangers,
        forged(tmp_path, "d-1"),
        forged(tmp_path, "expired", authority=authority, starts_in=timedelta(hours=-2)),
        forged(tmp_path, "early", authority=authority, starts_in=timedelta(hours=2)),
        forged(tmp_path, "server", authority=authority, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
    ):
        assert site.dial(own).greetings == [], own
    assert site.dial(forged(tmp_path, "good", authority=authority)).is_in


def test_nobody_is_answered_in_clear_and_who_says_nothing_keeps_nobody_out(site: MosquittoSite) -> None:
    with ExitStack() as open_ones:
        silent = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", site.broker.port)))
            for _ in range(300)
        ]
        silent[0].sendall(bytes.fromhex("101000044d5154540402003c000462656e63"))
        with contextlib.suppress(ConnectionError):
            assert not silent[0].recv(4).startswith(b"\x20")
        half = bytes.fromhex("1603010200010001fc0303")  # the beginning of a TLS greeting
        for one in silent[1:]:
            one.sendall(half)
        assert site.connect("d-1").is_in


def test_a_device_speaks_on_its_own_uplink_topics_of_its_tenant_only(site: MosquittoSite) -> None:
    device = site.connect("d-1")
    fleet = site.connect("fleet")
    fleet.subscribe("fedge/v1/#")
    own = [device_topic(TENANT, "d-1", kind) for kind in sorted(UPLINK_KINDS)]
    forbidden = [
        *(device_topic(TENANT, "d-2", kind) for kind in sorted(UPLINK_KINDS)),
        *(device_topic(TENANT, "d-1", kind) for kind in sorted(DOWNLINK_KINDS)),
        device_topic("another", "d-1", Kind.BIRTH),
        training_topic(TENANT, "motor"),
        "fedge/v1/demo/d-1/birth/deeper",
        "fedge/v1/demo/d-1//birth",
        "/fedge/v1/demo/d-1/birth",
        "elsewhere",
        "/".join("x" * 190),
        "$SYS/broker/version",
        "$share/group/fedge/v1/demo/d-2/health",
    ]
    for topic in forbidden + own:
        device.publish(topic, "x")
    device.publish(HEALTH, SENTINEL)
    assert fleet.topics_until_sentinel() == own


def test_a_will_in_the_name_of_another_is_never_heard(site: MosquittoSite) -> None:
    fleet = site.connect("fleet")
    fleet.subscribe("fedge/v1/#")
    for topic in (device_topic(TENANT, "d-2", Kind.DEATH), device_topic(TENANT, "d-1", Kind.DEATH)):
        site.connect("d-1", will=topic).die()
    fleet.turn(lambda: bool(fleet.heard), "the will")
    assert fleet.heard == [(device_topic(TENANT, "d-1", Kind.DEATH), "will")]


def test_four_thousand_retained_topics_are_not_kept(site: MosquittoSite) -> None:
    device, before = site.connect("d-1"), site.broker.memory_mb()
    for kind in ("birth", "desired"):
        topics = [f"fedge/v1/tenant-{n}/d-1/{kind}" for n in range(2000)]
        device.flood(topics, "x" * 16_384, retain=True)
    assert site.broker.memory_mb() - before < 20  # 65 MB were said


def test_a_device_hears_its_own_orders_and_the_invitations_of_the_aggregator(site: MosquittoSite) -> None:
    fleet, aggregator, device = (site.connect(name) for name in ("fleet", "aggregator", "d-1"))
    for everything in ("#", "fedge/v1/#", "$share/group/fedge/v1/#", "$SYS/#", "$CONTROL/#"):
        device.subscribe(everything)
        aggregator.subscribe(everything)
    own = [device_topic(TENANT, "d-1", kind) for kind in sorted(DOWNLINK_KINDS)]
    others = [device_topic(TENANT, "d-2", kind) for kind in sorted(DOWNLINK_KINDS)]
    site.connect("d-2").publish(device_topic(TENANT, "d-2", Kind.ANOMALY), "another's")
    for topic in own + others:
        fleet.publish(topic, "x")
    for foreign in (device_topic(TENANT, "d-1", Kind.DESIRED), device_topic(TENANT, "d-1", Kind.HEALTH)):
        aggregator.publish(foreign, "not the aggregator's to say")
    aggregator.publish(training_topic(TENANT, "motor"), "x")
    aggregator.publish(training_topic(TENANT, "press"), SENTINEL)
    assert set(device.topics_until_sentinel()) == {*own, training_topic(TENANT, "motor")}
    assert {topic for topic, _ in aggregator.heard} <= {
        training_topic(TENANT, "motor"),
        training_topic(TENANT, "press"),
    }


@pytest.mark.parametrize("name", ["d-1", "aggregator", "broker"])
def test_nobody_but_the_fleet_commands_the_broker_or_hears_its_answers(
    site: MosquittoSite, name: str
) -> None:
    intruder = site.connect(name)
    intruder.subscribe("$CONTROL/#")
    intruder.publish(
        "$CONTROL/dynamic-security/v1", '{"commands": [{"command": "createClient", "username": "m"}]}'
    )
    site.command(command="createClient", username=f"after-{name}")
    with pytest.raises(AssertionError, match="Client not found"):
        site.command(command="getClient", username="m")
    assert intruder.heard == []


def test_rights_and_certificate_are_read_anew_without_throwing_anybody_out_and_the_shut_out_stay_out(
    site: MosquittoSite,
) -> None:
    device = site.connect("d-1")
    site.reload()
    device.publish(HEALTH, "still here")
    assert not device.is_lost
    _ = wait_until
