"""Certificates are renewed on disk and shown without a restart; half of a pair, or one whose time is not now, is not."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.errors import StartError
from service.served_certificate import DAY_S, ServedCertificate, expose_days_left

NOW = time.time()
ENCRYPTED_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"a pass phrase"),
)
AUTHORITY = trustme.CA()


class Renewal:
    """A pair of files, as whoever renews them leaves them; and the service that shows them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "fleet.pem", folder / "fleet.key"
        self.now = NOW

    def made(self, days: float = 90, begins: float = -1) -> trustme.LeafCert:
        def moment(days: float) -> dt.datetime:
            return dt.datetime.fromtimestamp(NOW + days * DAY_S, dt.UTC)

        return AUTHORITY.issue_cert("127.0.0.1", not_before=moment(begins), not_after=moment(days))

    def put(self, made: trustme.LeafCert) -> None:
        self.put_cert(b"".join(part.bytes() for part in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())

    def put_cert(self, content: bytes) -> None:
        """In its place at once, as a careful hand does it: another inode each time."""
        fresh = self.cert.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.cert)

    def serve(self) -> ServedCertificate:
        return ServedCertificate(self.cert, self.key, lambda: self.now)

    def looks(self, served: ServedCertificate, times: int = 3) -> list[str]:
        """What is said while it looks so many times."""
        with capture_logs() as said:
            for _ in range(times):
                served.look()
        return [line["event"] for line in said]


@pytest.fixture
def renewal(tmp_path: Path) -> Renewal:
    return Renewal(tmp_path)


def shown(served: ServedCertificate) -> bytes:
    """The leaf that the next handshake is shown, in DER."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    client = context.wrap_bio(client_in, client_out, server_hostname="127.0.0.1")
    server = served.context.wrap_bio(server_in, server_out, server_side=True)
    steps: list[Callable[[], None]] = [client.do_handshake, server.do_handshake] * 3
    for step in steps:
        with contextlib.suppress(ssl.SSLWantReadError):
            step()
        server_in.write(client_out.read())
        client_in.write(server_out.read())
    return client.getpeercert(binary_form=True) or b""


def der(made: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def test_a_renewed_pair_is_shown_from_the_next_handshake_on(renewal: Renewal) -> None:
    first, second = renewal.made(), renewal.made()
    renewal.put(first)
    served = renewal.serve()
    assert shown(served) == der(first)
    renewal.put(second)
    assert renewal.looks(served) == ["certificate_renewed"]
    assert shown(served) == der(second)
    assert renewal.looks(served) == []


def test_a_file_is_not_taken_before_it_has_stayed_the_same_for_two_looks(renewal: Renewal) -> None:
    renewal.put(renewal.made())
    served, second = renewal.serve(), renewal.made()
    renewal.put(second)
    assert renewal.looks(served, 1) == []
    renewal.put_cert(renewal.cert.read_bytes())
    assert renewal.looks(served, 1) == []
    assert shown(served) != der(second)
    assert renewal.looks(served, 1) == ["certificate_renewed"]


@pytest.mark.parametrize(
    "half",
    [
        "only the certificate",
        "only the key",
        "a cut certificate",
        "an empty key",
        "no key",
        "words",
        "an encrypted key",
    ],
)
def test_half_of_a_pair_leaves_the_old_one_and_is_said_once_until_the_rest_comes(
    renewal: Renewal, half: str
) -> None:
    first, second = renewal.made(), renewal.made()
    renewal.put(first)
    served = renewal.serve()
    chain, key = second.cert_chain_pems[0].bytes(), second.private_key_pem.bytes()
    match half:
        case "only the certificate":
            renewal.put_cert(chain)
        case "only the key":
            renewal.key.write_bytes(key)
        case "a cut certificate":
            renewal.key.write_bytes(key)
            renewal.put_cert(chain[: len(chain) // 2])
        case "an empty key":
            renewal.put_cert(chain)
            renewal.key.write_bytes(b"")
        case "no key":
            renewal.put_cert(chain)
            renewal.key.unlink()
        case "words":
            renewal.put_cert(b"to be renewed\n")
        case _:
            renewal.put_cert(chain)
            renewal.key.write_bytes(ENCRYPTED_KEY)
    assert renewal.looks(served, 5) == ["certificate_not_taken"]
    assert shown(served) == der(first)
    renewal.put(second)
    assert renewal.looks(served) == ["certificate_renewed"]
    assert shown(served) == der(second)


@pytest.mark.parametrize(("begins", "days"), [(1, 90), (-90, -1)])
def test_a_certificate_whose_time_is_not_now_is_not_taken_for_one_whose_time_is(
    renewal: Renewal, begins: float, days: float
) -> None:
    first, second = renewal.made(), renewal.made(days, begins)
    renewal.put(first)
    served = renewal.serve()
    renewal.put(second)
    assert renewal.looks(served) == ["certificate_not_taken"]
    assert shown(served) == der(first)
    renewal.now += 2 * DAY_S
    assert renewal.looks(served) == (["certificate_renewed"] if begins > 0 else [])


def test_its_end_is_foretold_for_two_weeks_once_a_day_and_shown_as_days(renewal: Renewal) -> None:
    registry = CollectorRegistry()
    renewal.put(renewal.made(days=15))
    served = renewal.serve()
    expose_days_left(registry, served)
    assert registry.get_sample_value("fedge_certificate_days_left") == pytest.approx(15, abs=0.01)
    assert renewal.looks(served) == []
    renewal.now += 1.5 * DAY_S
    assert renewal.looks(served, 10) == ["certificate_ends_soon"]
    renewal.now += 1.1 * DAY_S
    assert renewal.looks(served, 10) == ["certificate_ends_soon"]
    assert registry.get_sample_value("fedge_certificate_days_left") == pytest.approx(12.4, abs=0.01)
    renewal.put(renewal.made(days=90))
    assert renewal.looks(served, 10) == ["certificate_renewed"]
    assert registry.get_sample_value("fedge_certificate_days_left") == pytest.approx(87.4, abs=0.01)


def test_one_that_has_ended_is_shown_and_said_rather_than_nothing(renewal: Renewal) -> None:
    renewal.put(renewal.made(days=-0.1, begins=-2))
    with capture_logs() as said:
        served = renewal.serve()
    assert [line["event"] for line in said] == ["certificate_ends_soon"]
    assert served.days_left() < 0


@pytest.mark.parametrize(
    "content", [b"", b"words", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_start_with_what_is_no_pair_is_refused(renewal: Renewal, content: bytes) -> None:
    renewal.put(renewal.made())
    renewal.cert.write_bytes(content)
    with pytest.raises(StartError, match=r"fleet\.pem and tls_key .*fleet\.key cannot be used"):
        renewal.serve()


def test_a_key_under_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(renewal: Renewal) -> None:
    renewal.put(renewal.made())
    renewal.key.write_bytes(ENCRYPTED_KEY)
    with pytest.raises(StartError, match="encrypted"):
        renewal.serve()
