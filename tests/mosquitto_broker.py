"""A real Mosquitto on loopback, over TLS, for every test that needs a broker.

::

    with MosquittoBroker(tmp_path) as broker:                           # anyone may enter
    with MosquittoBroker(tmp_path, knows_clients=True) as broker:       # who shows a certificate of one of its CAs
    with MosquittoBroker(tmp_path, settings=["max_…"]) as broker:       # whatever else mosquitto.conf may say
        broker.url, broker.port, broker.ca_file, broker.client_tls(broker.certificates.service("fleet"))
        broker.kill(); broker.start()                                          # the same port, the same certificates

Where Mosquitto is missing the test is skipped with the one line that installs it; in CI it fails instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import trustme
from free_ports import free_port, is_taken
from waiting import died, wait_until

__all__ = ["LocalCertificates", "MosquittoBroker", "installed_program"]


def installed_program(name: str) -> str:
    """The path of a program of Debian's package mosquitto; skips the test where it is missing (which fails in CI)."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: sudo apt-get install mosquitto")
    return found


class LocalCertificates:
    """Two CAs, as in production: one of the services (``ca.pem``), one of the devices; both in ``clients.pem``.

    ``server.pem`` and ``server.key`` are the services' for loopback.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca_file, self.clients_file, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "clients.pem", "server.pem", "server.key")
        )
        self._services, self._devices = trustme.CA(), trustme.CA()
        self._services.cert_pem.write_to_path(self.ca_file)
        self.clients_file.write_bytes(self._services.cert_pem.bytes() + self._devices.cert_pem.bytes())
        self.renew_server(self.certificate, self.key)

    def renew_server(self, certificate: Path, key: Path) -> None:
        """Another certificate for loopback, in these files."""
        _write(self._services.issue_cert("127.0.0.1", "localhost", "::1"), certificate, key)

    def service(self, name: str) -> tuple[Path, Path]:
        """Certificate and key that the services' CA gives `name`."""
        return self._issued(self._services, name)

    def device(self, name: str) -> tuple[Path, Path]:
        """Certificate and key that the devices' CA gives `name`."""
        return self._issued(self._devices, name)

    def connection(self, name: str) -> Path:
        """The same of a device in one file, as an agent keeps it."""
        certificate, key = self.device(name)
        whole = self._folder / f"{name}-connection.pem"
        whole.write_bytes(key.read_bytes() + certificate.read_bytes() + self._devices.cert_pem.bytes())
        return whole

    def context(self, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client of the broker uses; it shows `own` certificate and key."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if own is not None:
            context.load_cert_chain(*own)
        return context

    def _issued(self, authority: trustme.CA, name: str) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        if not certificate.exists():
            _write(authority.issue_cert(common_name=name), certificate, key)
        return certificate, key


def _write(leaf: trustme.LeafCert, certificate: Path, key: Path) -> None:
    leaf.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


class MosquittoBroker:
    """Mosquitto as a child process; started by ``with`` or `start`, stopped by its id."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Iterable[str] = (),
        certificates: LocalCertificates | None = None,
        tls: bool = True,
        knows_clients: bool = False,
        configure: Callable[[int], str] | None = None,
    ) -> None:
        """Write what the broker reads into `folder`/broker.

        Args:
            folder: any folder of the test.
            settings: further lines of mosquitto.conf.
            certificates: of the listener; made here where none are given.
            tls: False for the few tests that must look at plain bytes.
            knows_clients: whether it lets in who shows a certificate, and nobody else, under the name in it.
            configure: the whole configuration for a port, where it is not this one's.
        """
        self._program = installed_program("mosquitto")
        self.folder = folder / "broker"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificates = certificates or LocalCertificates(self.folder / "pki")
        self.port = free_port()
        self.log = self.folder / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._tls = tls
        lines = [*settings, f"listener {self.port} 127.0.0.1"]
        if tls:
            lines += [f"certfile {self.certificates.certificate}", f"keyfile {self.certificates.key}"]
        if knows_clients:
            lines += [f"cafile {self.certificates.clients_file}", "require_certificate true"]
            lines += ["use_identity_as_username true", "use_username_as_clientid true"]
        else:
            lines.append("allow_anonymous true")
        if configure is not None:
            lines = [*settings, *configure(self.port).splitlines()]
        if os.geteuid() == 0:
            lines.append("user root")  # else it gives up root for a user that cannot read the test's folder
        self._config = self.folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        """What a client dials."""
        return f"{'mqtts' if self._tls else 'mqtt'}://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The CA that clients must trust."""
        return self.certificates.ca_file

    def client_tls(self, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """A context that trusts this broker alone, and shows `own` certificate and key."""
        return self.certificates.context(own)

    def memory_mb(self) -> float:
        """What it holds in memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def start(self) -> None:
        """Start it and return once it listens; fails with its log when it ends instead."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        child = self.process
        wait_until(lambda: is_taken(self.port), "Mosquitto to listen", unless=lambda: died(child, self.log))

    def stop(self) -> None:
        """End it as systemd does; it disconnects its clients and saves what it keeps."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
