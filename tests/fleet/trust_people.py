"""People on machines of their own who keep a fleet's repository: every step is a command, as they would type it."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secret_file import secret_file
from trust_world import OneDevice, list_bundles
from typer.testing import CliRunner

from fleet.cli import app
from fleet.trust.key_files import load_private_key, public_path
from fleet.trust.repository import TrustRepository
from protocol.identity import public_key_pem
from runtime.errors import FedgeError


class People:
    """Alice, Bob and Carol hold root; Tom targets; Rita a release key. `site` is the fleet's machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.config = self.site / "fleet.toml"
        self.passphrase = folder / "passphrase"
        self.repository = TrustRepository(self.site / "data" / "trust")

    def move_in(self) -> None:
        """Everybody has a key; the fleet has its settings and its instruction key."""
        self.site.mkdir(parents=True)
        self.config.write_text('data_dir = "data"\ntenant = "demo"\n')
        secret_file(self.passphrase, "the horse that reads\n")
        for name in ("alice", "bob", "carol", "tom", "rita"):
            self.make_key(name)

    def run(self, *words: object, answer: str = "") -> str:
        """Run ``fedge-fleet trust ...``; raises what it refused, returns what it said."""
        done = CliRunner().invoke(app, ["trust", *map(str, words)], input=answer)
        if isinstance(done.exception, FedgeError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def make_key(self, name: str) -> Path:
        self.run("keys", "create", "--out", self.key(name), "--passphrase-file", self.passphrase)
        return self.public(name)

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def public(self, name: str) -> Path:
        return public_path(self.key(name))

    def private(self, name: str) -> Ed25519PrivateKey:
        key = load_private_key(self.key(name), lambda _path: self.passphrase.read_bytes().strip())
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def prepare(self, *words: object) -> Path:
        """A change's folder, prepared on the fleet's machine."""
        out = self.folder / f"change-{secrets.token_hex(4)}"
        self.run(*words, "--config", self.config, "--out", out)
        return out

    def init(self) -> Path:
        roots = [word for name in ("alice", "bob", "carol") for word in ("--root", self.public(name))]
        return self.prepare(
            "init",
            *roots,
            "--targets",
            self.public("tom"),
            "--family",
            f"motor={self.public('rita')}",
        )  # fmt: skip - one command line

    def sign(self, change: Path, *names: str) -> Path:
        """Each signs a copy on a machine of their own; returns the folder that they were put together in."""
        copies = []
        for name in names:
            copy = self.folder / f"{change.name}-{name}"
            shutil.copytree(change, copy)
            self.run("sign", copy, "--key", self.key(name), "--yes", "--passphrase-file", self.passphrase)
            copies.append(copy)
        whole = self.folder / f"{change.name}-whole"
        self.run("assemble", *copies, "--out", whole)
        return whole

    def publish(self, change: Path) -> str:
        return self.run("publish", change, "--config", self.config)

    def found(self) -> None:
        """From nothing to a published repository with one release."""
        self.move_in()
        self.publish(self.sign(self.init(), "alice", "carol", "tom"))
        list_bundles(self.repository, {"motor/1": b"one"}, self.private("rita"))

    def device(self, name: str) -> OneDevice:
        device = OneDevice(self.folder / name, self.repository)
        device.refresh()
        return device

    def renew(self, days: float = 0.0) -> None:
        self.repository.renew(time.time() + days * 86_400)


def instruction_pem() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    return public_key_pem(ec.generate_private_key(ec.SECP256R1()).public_key())


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one release, made by the ceremony; each test goes on with a copy of it."""
    folder = tmp_path_factory.mktemp("founded") / "world"
    People(folder).found()
    return folder


@pytest.fixture
def people(founded: Path, tmp_path: Path) -> People:
    shutil.copytree(founded, tmp_path / "world")
    return People(tmp_path / "world")
