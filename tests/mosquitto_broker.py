"""A real Mosquitto on loopback, over TLS, for every test that needs a broker.

::

    with MosquittoBroker(tmp_path) as broker:                                  # anyone may enter
    with MosquittoBroker(tmp_path, passwords={"fleet": "secret"}) as broker:   # a password file
    with MosquittoBroker(tmp_path, settings=["plugin …"]) as broker:           # whatever else mosquitto.conf may say
        broker.url, broker.port, broker.ca_file, broker.client_tls()
        broker.kill(); broker.start()                                          # the same port, the same certificates

Where Mosquitto is missing the test is skipped with the one line that installs it; in CI it fails instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterable, Mapping
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
    """A private CA in ``ca.pem`` and its certificate for loopback in ``server.pem`` and ``server.key``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "server.pem", "server.key")
        )
        authority = trustme.CA()
        served = authority.issue_cert("127.0.0.1", "localhost", "::1")
        authority.cert_pem.write_to_path(self.ca_file)
        served.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in served.cert_chain_pems))


class MosquittoBroker:
    """Mosquitto as a child process; started by ``with`` or `start`, stopped by its id."""

    def __init__(
        self,
        folder: Path,
        *,
        passwords: Mapping[str, str] | None = None,
        settings: Iterable[str] = (),
        certificates: LocalCertificates | None = None,
        tls: bool = True,
    ) -> None:
        """Write what the broker reads into `folder`/broker.

        Args:
            folder: any folder of the test.
            passwords: user → password; None admits everybody, unless `settings` say otherwise.
            settings: further lines of mosquitto.conf.
            certificates: of the listener; made here where none are given.
            tls: False for the few tests that must look at plain bytes.
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
        if passwords is not None:
            lines += ["allow_anonymous false", f"password_file {self._password_file(passwords)}"]
        elif not any(line.startswith(("plugin ", "allow_anonymous ")) for line in lines):
            lines.append("allow_anonymous true")
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

    def client_tls(self) -> ssl.SSLContext:
        """A context that trusts this broker alone."""
        return ssl.create_default_context(cafile=str(self.ca_file))

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

    def _password_file(self, passwords: Mapping[str, str]) -> Path:
        path = self.folder / "passwords"
        path.write_text("".join(f"{user}:{password}\n" for user, password in passwords.items()))
        path.chmod(0o600)
        subprocess.run([installed_program("mosquitto_passwd"), "-U", str(path)], check=True)
        return path

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
