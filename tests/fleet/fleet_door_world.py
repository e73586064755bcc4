"""The fleet as a process behind TLS, one device that it knows, and hands that send it exactly the bytes that a test wants to send."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import pytest
from fleet_world import TENANT, Machine, enrol_directly, fleet_process
from mosquitto_broker import LocalCertificates

from fleet.migrations.upgrade import open_storage
from service.addresses import split_endpoint

DESIRED = "/v1/device/desired"


class Caller:
    """One connection over TLS, from any address of loopback; ends with the block."""

    def __init__(self, site: Site, address: str = "127.0.0.1") -> None:
        self.plain = socket.create_connection(
            ("127.0.0.1", site.port), timeout=60, source_address=(address, 0)
        )
        self.socket = site.tls.wrap_socket(self.plain, server_hostname="127.0.0.1")

    def send(self, content: bytes) -> None:
        """All of it, or as much as the other side takes before it ends the connection."""
        with contextlib.suppress(OSError):
            self.socket.sendall(content)

    def status(self) -> int:
        """Of the next answer; 0 where the connection ended without one."""
        response = HTTPResponse(self.socket)
        try:
            response.begin()
            response.read()
        except (OSError, HTTPException):
            return 0
        return response.status

    def is_ended(self) -> bool:
        return is_ended(self.socket)

    def close(self) -> None:
        self.socket.close()


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection, having said whatever it said."""
    connection.settimeout(0.005)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


class Site:
    """A running fleet and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "fleet.log"
        self.certificates = LocalCertificates(folder / "pki")
        self._read = 0
        self.machine, self.port = Machine(name="press-1"), 0
        self.tls = ssl.create_default_context(cafile=self.certificates.ca_file)
        self.config = folder / "fleet.toml"
        self.config.write_text(
            f"""
            listen = "127.0.0.1:0"
            tls_cert = "pki/server.pem"
            tls_key = "pki/server.key"
            data_dir = "data"
            tenant = "{TENANT}"
            """
        )
        database = open_storage(f"sqlite:///{folder / 'data' / 'fleet.sqlite'}")
        enrol_directly(database, self.machine)
        database.close()

    def bearer(self) -> str:
        return f"authorization: Bearer {self.machine.token(time.time())}"

    def poll(self, *more: str) -> bytes:
        """A device's poll."""
        lines = [f"GET {DESIRED} HTTP/1.1", "host: x", self.bearer(), *more, "", ""]
        return "\r\n".join(lines).encode()

    def is_polled(self) -> bool:
        """Whether the device, on a connection of its own, is answered."""
        try:
            device = Caller(self)
        except OSError:
            return False
        with contextlib.closing(device):
            device.send(self.poll())
            return device.status() == 204

    def faults(self) -> list[str]:
        """Lines of the log that should not be there, since they were last asked for."""
        lines = self.log.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [line for line in new if '"level": "error"' in line or "Traceback" in line]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    with fleet_process(site.config, site.log) as (_, url):
        site.port = split_endpoint(url.removeprefix("https://")).port
        yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("door")) as found:
        yield found
