"""OPC UA: numbers of a real server, missing where it gives none, none of what is hostile, over one pinned certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from free_ports import free_port
from opcua_server import OpcUaServer
from slow_link import relay

from edge_agent.errors import SourceError
from edge_agent.sources.factory import open_source
from edge_agent.sources.live_settings import OpcUaSettings
from edge_agent.sources.opcua import OpcUaInstrument
from edge_agent.sources.sampled import SampledSource

NODES = {"Pressure": "ns=2;s=Pressure", "Flow": "ns=2;s=Flow"}


def settings_of(url: str, nodes: dict[str, str] = NODES, **more: Any) -> OpcUaSettings:
    return OpcUaSettings(url=url, nodes=nodes, **({"answers_within_s": 10.0} | more))


@pytest.fixture(scope="module")
def server() -> Iterator[OpcUaServer]:
    values = {
        "Pressure": 1.5,
        "Flow": 7,
        "Text": "3.5",
        "Pair": [1.0, 2.0],
        "HugeText": "x" * 3_000_000,
        "HugeArray": [0.5] * 1_000_000,
    }
    with OpcUaServer(free_port(), values) as made:
        yield made


@pytest.fixture
def instrument(server: OpcUaServer) -> Iterator[OpcUaInstrument]:
    made = OpcUaInstrument(settings_of(server.url))
    yield made
    made.close()


def test_a_row_holds_what_the_server_says_now(server: OpcUaServer, instrument: OpcUaInstrument) -> None:
    assert instrument.read() == pytest.approx([1.5, 7.0])
    server.set("Pressure", 2.5)
    assert instrument.read() == pytest.approx([2.5, 7.0])
    server.set("Pressure", 1.5)


@pytest.mark.parametrize(
    "value",
    [
        ua.DataValue(
            ua.Variant(1.0, ua.VariantType.Double), StatusCode=ua.StatusCode(ua.StatusCodes.BadSensorFailure)
        ),
        ua.DataValue(ua.Variant(math.nan, ua.VariantType.Double)),
        ua.DataValue(ua.Variant(1e300, ua.VariantType.Double)),
    ],
    ids=["bad status", "no number", "beyond float32"],
)
def test_what_is_no_good_number_is_missing_and_the_rest_is_not(
    server: OpcUaServer, instrument: OpcUaInstrument, value: ua.DataValue
) -> None:
    server.set("Pressure", value)
    row = instrument.read()
    assert np.isnan(row[0])
    assert row[1] == 7
    server.set("Pressure", 1.5)


def test_a_value_of_an_old_source_time_is_missing_where_the_settings_say_so(server: OpcUaServer) -> None:
    now = dt.datetime.now(dt.UTC)
    server.set(
        "Pressure",
        ua.DataValue(ua.Variant(1.0, ua.VariantType.Double), SourceTimestamp=now - dt.timedelta(hours=1)),
    )
    server.set("Flow", ua.DataValue(ua.Variant(7, ua.VariantType.Int64), SourceTimestamp=now))
    instrument = OpcUaInstrument(settings_of(server.url, stale_after_s=600.0))
    row = instrument.read()
    instrument.close()
    assert np.isnan(row[0])
    assert row[1] == 7
    server.set("Pressure", 1.5)


def test_a_node_that_is_not_there_is_missing(server: OpcUaServer) -> None:
    instrument = OpcUaInstrument(settings_of(server.url, NODES | {"Ghost": "ns=2;s=Ghost"}))
    assert np.isnan(instrument.read()).tolist() == [False, False, True]
    instrument.close()


def test_a_text_that_is_no_node_id_is_refused_by_its_name() -> None:
    with pytest.raises(SourceError, match=r"source\.nodes\.Pressure = 'pressure'"):
        OpcUaInstrument(settings_of("opc.tcp://127.0.0.1:1", {"Pressure": "pressure"}))


def test_a_server_that_went_away_gives_no_row_and_one_that_came_back_does(server: OpcUaServer) -> None:
    port = free_port()
    instrument = OpcUaInstrument(settings_of(f"opc.tcp://127.0.0.1:{port}/plant"))
    with pytest.raises(SourceError, match="is the server up"):
        instrument.read()
    for _ in range(2):
        with relay(server.port, 1e8, listen=port):
            assert instrument.read()[0] == 1.5
        with pytest.raises(SourceError):
            instrument.read()
    instrument.close()


@pytest.mark.parametrize("huge", ["HugeText", "HugeArray"])
def test_a_value_as_large_as_a_server_likes_ends_the_connection(server: OpcUaServer, huge: str) -> None:
    instrument = OpcUaInstrument(settings_of(server.url, NODES | {"Huge": f"ns=2;s={huge}"}))
    with pytest.raises(SourceError, match="sends more than"):
        instrument.read()
    instrument.close()


def test_a_short_text_or_array_is_missing(server: OpcUaServer) -> None:
    instrument = OpcUaInstrument(
        settings_of(server.url, {"Text": "ns=2;s=Text", "Pair": "ns=2;s=Pair", "Well": "ns=2;s=Flow"})
    )
    assert np.isnan(instrument.read()).tolist() == [True, True, False]
    instrument.close()


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad\r\n\r\n", struct.pack("<3scI", b"ACK", b"F", 0xFFFFFFF0) + b"x" * 600_000, b""],
)
def test_what_is_no_opc_ua_server_is_told_in_one_line(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                try:
                    peer.sendall(said)
                    peer.recv(1000)
                except OSError:
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        instrument = OpcUaInstrument(
            settings_of(f"opc.tcp://127.0.0.1:{listener.getsockname()[1]}", answers_within_s=0.5)
        )
        with pytest.raises(SourceError) as told:
            instrument.read()
        assert "\n" not in str(told.value)
        instrument.close()
        thread.join()


def certificate(folder: Path, name: str, uri: str) -> tuple[Path, Path]:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=10))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(uri), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / f"{name}.pem", folder / f"{name}.key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, key_pem


@pytest.mark.slow
def test_sealed_and_signed_in_with_the_pinned_server_and_with_no_other(tmp_path: Path) -> None:
    server_pair = certificate(tmp_path, "server", "urn:freeopcua:python:server")
    device, key = certificate(tmp_path, "device", "urn:example.org:FreeOpcUa:opcua-asyncio")
    stranger, _ = certificate(tmp_path, "stranger", "urn:stranger")
    (tmp_path / "password").write_text("s3cret-word\n")
    (tmp_path / "password").chmod(0o600)
    sealed: dict[str, Any] = {
        "security": "sign-encrypt",
        "certificate_file": device,
        "key_file": key,
        "server_certificate_file": server_pair[0],
        "username": "operator",
        "password_file": tmp_path / "password",
    }
    with OpcUaServer(free_port(), {"Pressure": 1.5, "Flow": 7.0}, security=server_pair) as server:
        instrument = OpcUaInstrument(settings_of(server.url, **sealed))
        assert instrument.read() == pytest.approx([1.5, 7.0])
        instrument.close()
        (tmp_path / "password").write_text("another\n")
        for wrong in ({}, {"server_certificate_file": stranger}):
            instrument = OpcUaInstrument(settings_of(server.url, **(sealed | wrong), answers_within_s=2.0))
            with pytest.raises(SourceError):
                instrument.read()
            instrument.close()


def test_the_factory_makes_windows_of_its_rows(server: OpcUaServer) -> None:
    source = open_source(settings_of(server.url, every_s=0.5, window_rows=2))
    assert isinstance(source, SampledSource)
    assert source.spec.names == ("Pressure", "Flow")
    assert source.next_window(0.0) is None
    assert source.next_window(0.1) is None, "no row is due"
    window = source.next_window(0.5)
    assert window is not None
    assert window.samples.shape == (2, 2)
    assert "Pressure 1.5" in source.look()
    source.close()
