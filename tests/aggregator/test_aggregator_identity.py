"""The aggregator's own key: made once, kept from others, and never replaced by itself."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from command_line import run_command

from aggregator.identity import IDENTITY_FILE, open_identity
from protocol.identity import fingerprint, load_public_key, private_key_pem
from runtime.errors import SettingsError

CONFIG = """
tls_cert = "c.pem"
tls_key = "k.pem"
data_dir = "data"
tenant = "demo"
signing_key = "s.key"
[fleet]
url = "https://127.0.0.1:1"
ca_file = "ca.pem"
token_file = "t"
[mqtt]
url = "mqtt://127.0.0.1:1"
[[family]]
name = "press"
"""


def test_the_key_is_made_at_the_first_start_for_this_user_alone_and_stays(tmp_path: Path) -> None:
    made = open_identity(tmp_path / "data")
    file = tmp_path / "data" / IDENTITY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert private_key_pem(open_identity(tmp_path / "data")) == private_key_pem(made) == file.read_bytes()


def test_whoever_starts_at_the_same_time_gets_the_same_key(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(private_key_pem(open_identity(tmp_path / "data"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_key_that_others_may_read_or_that_is_damaged_is_refused_and_not_replaced(tmp_path: Path) -> None:
    open_identity(tmp_path)
    file = tmp_path / IDENTITY_FILE
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="mode 0644, so others may read it: chmod 600"):
        open_identity(tmp_path)
    file.chmod(0o600)
    file.write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="restore it from a backup"):
        open_identity(tmp_path)
    assert file.read_bytes() == b"damaged"


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SettingsError, match="data"):
        open_identity(tmp_path / "data")


@pytest.mark.slow
def test_the_command_prints_what_devices_pin_or_writes_it(tmp_path: Path) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text(CONFIG)
    printed = run_command("aggregator", "identity", "--config", str(config))
    written = run_command(
        "aggregator", "identity", "--config", str(config), "--out", str(tmp_path / "aggregator.pub.pem")
    )
    assert (printed.returncode, written.returncode) == (0, 0), printed.stderr + written.stderr
    assert printed.stdout == (tmp_path / "aggregator.pub.pem").read_text()
    key = load_public_key(printed.stdout.encode())
    assert key == open_identity(tmp_path / "data").public_key()
    assert fingerprint(key) in written.stdout
