"""Chips for tests: a token of SoftHSM, and a TPM 2.0 (swtpm) behind tpm2-pkcs11. Real libraries, in folders of the test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pkcs11
import pytest
from waiting import died, wait_until

from edge_agent.settings import IdentitySettings

PIN = "8436217"
_SOFTHSM = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
_TPM2 = "libtpm2_pkcs11.so.1"


@dataclass
class Chip:
    """`settings` name it; `go_away` and `come_back` are a chip that is reset, or a daemon that restarts."""

    settings: IdentitySettings
    environment: dict[str, str]
    folder: Path

    def go_away(self) -> None:
        (self.folder / "tokens").rename(self.folder / "away")
        (self.folder / "tokens").mkdir()

    def come_back(self) -> None:
        (self.folder / "tokens").rmdir()
        (self.folder / "away").rename(self.folder / "tokens")


class TpmChip(Chip):
    process: subprocess.Popen[bytes] | None = None

    def go_away(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait()

    def come_back(self) -> None:
        log = self.folder / "swtpm.log"
        control = self.folder / "tpm.ctrl"
        control.unlink(missing_ok=True)
        addresses = [
            "--server",
            f"type=unixio,path={self.folder / 'tpm'}",
            "--ctrl",
            f"type=unixio,path={control}",
        ]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'state'}"),
                    *(*addresses, "--flags", "not-need-init,startup-clear"),
                ],
                stdout=out,
                stderr=out,
            )
        child = self.process
        wait_until(control.exists, "swtpm to listen", unless=lambda: died(child, log))


@contextmanager
def softhsm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    module = next((Path(name) for name in _SOFTHSM if Path(name).exists()), None)
    if module is None:
        pytest.skip("SoftHSM is not installed: sudo apt-get install softhsm2")
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    environment = {"SOFTHSM2_CONF": str(conf)}
    with _set_up(Chip(_settings(folder, module), environment, folder), monkeypatch) as chip:
        yield chip


@contextmanager
def tpm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    found = [*Path("/usr/lib").glob(f"*/{_TPM2}"), *Path("/usr/lib64").glob(_TPM2)]
    if not found or shutil.which("swtpm") is None:
        pytest.skip("no TPM to test with: sudo apt-get install swtpm libtpm2-pkcs11-1")
    for name in ("state", "store"):
        (folder / name).mkdir(parents=True)
    environment = {
        "TPM2_PKCS11_STORE": str(folder / "store"),
        "TPM2_PKCS11_TCTI": f"swtpm:path={folder / 'tpm'}",
        "TPM2_PKCS11_LOG_LEVEL": "0",
        "TSS2_LOG": "all+NONE",
    }
    chip = TpmChip(_settings(folder, found[0]), environment, folder)
    chip.come_back()
    try:
        with _set_up(chip, monkeypatch):
            yield chip
    finally:
        chip.go_away()


@contextmanager
def _set_up(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    for name, value in chip.environment.items():
        monkeypatch.setenv(name, value)
    (chip.folder / "pin").write_text(f"{PIN}\n")
    (chip.folder / "pin").chmod(0o600)
    module, label = chip.settings.module, chip.settings.token
    subprocess.run(
        [
            *("softhsm2-util", "--module", str(module), "--init-token", "--free"),
            *("--label", label, "--pin", PIN, "--so-pin", "9" + PIN),
        ],
        check=True,
        capture_output=True,
    )
    try:
        yield chip
    finally:
        # the next test's chip is another one behind the same library
        pkcs11.lib(str(module)).finalize()


def _settings(folder: Path, module: Path) -> IdentitySettings:
    return IdentitySettings(module=module, token="fedge", pin_file=folder / "pin")
