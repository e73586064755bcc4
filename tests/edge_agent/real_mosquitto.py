"""Mosquitto itself on loopback over TLS, with one account for the device and one for the fleet; ended by its pid."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import trustme
from agent_broker import FLEET_PASSWORD, free_port
from agent_world import PASSWORD, wait_for

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
PASSWORD_TOOL = shutil.which("mosquitto_passwd")


class RealMosquitto:
    """Starts at once; `log` is what the broker says of each connection, and `ca_file` what a device trusts."""

    def __init__(self, folder: Path, *devices: str) -> None:
        assert MOSQUITTO is not None
        assert PASSWORD_TOOL is not None
        self.port, self.ca_file, self.log = free_port(), folder / "ca.pem", folder / "mosquitto.log"
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(self.ca_file)
        own = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
        own.private_key_pem.write_to_path(folder / "broker.key")
        own.cert_chain_pems[0].write_to_path(folder / "broker.pem")
        passwords = folder / "broker.passwords"
        lines = [f"{device}:{PASSWORD}" for device in devices] + [f"fleet:{FLEET_PASSWORD}"]
        passwords.write_text("\n".join(lines) + "\n")
        subprocess.run([PASSWORD_TOOL, "-U", str(passwords)], check=True, capture_output=True)
        passwords.chmod(0o644)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
            f"cafile {self.ca_file}\ncertfile {folder / 'broker.pem'}\nkeyfile {folder / 'broker.key'}\n"
            "persistence false\nlog_dest stderr\nlog_type all\nconnection_messages true\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    def start(self) -> None:
        before = self.log.read_text().count("running") if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(MOSQUITTO), "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(lambda: self.log.read_text().count("running") > before, f"Mosquitto (see {self.log})", 60)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def complaints(self) -> list[str]:
        """Lines that tell of a connection that broke its own protocol; a cut one is not among them."""
        wrong = ("OpenSSL Error", "protocol error", "Protocol error", "malformed", "bad record", "decryption failed")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in wrong)]

