"""A token in a file: used from the next request on when it changes, and refused where every user of the machine may read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from secret_file import secret_file

from runtime.errors import SettingsError, StorageError
from service.secret_files import read_secret, write_secret
from service.token_file import TokenFile


class Service:
    """Lets one token in; remembers what was shown to it."""

    def __init__(self, path: Path) -> None:
        self.good, self.shown = "first", list[str]()
        self.http = httpx.Client(
            auth=TokenFile(secret_file(path, "first\n"), "--token-file"),
            transport=httpx.MockTransport(self.answer),
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.shown.append(request.headers["Authorization"].removeprefix("Bearer "))
        return httpx.Response(200 if self.shown[-1] == self.good else 401)

    def ask(self) -> int:
        return self.http.post("https://fleet/v1", content=b"body").status_code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "me.token"


def test_a_rotated_token_is_used_from_the_next_request_on(path: Path) -> None:
    service = Service(path)
    assert service.ask() == 200
    write_secret(path.with_suffix(".new"), "second")
    path.with_suffix(".new").replace(path)
    service.good = "second"
    assert (service.ask(), service.shown) == (200, ["first", "second"])


def test_a_change_that_does_not_show_is_seen_when_the_old_token_is_refused(path: Path) -> None:
    service = Service(path)
    seen = path.stat()
    path.write_text("other\n")  # as long, and within the clock's step
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    service.good = "other"
    assert (service.ask(), service.shown) == (200, ["first", "other"])
    service.good = "nobody's"
    assert (service.ask(), service.shown[2:]) == (401, ["other"]), "it is not asked twice with one token"


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_text(""), lambda path: path.chmod(0o644)]
)
def test_while_the_file_cannot_be_used_what_was_read_goes_on(path: Path, spoil: object) -> None:
    service = Service(path)
    spoil(path)  # type: ignore[operator] # one of the three above
    assert (service.ask(), service.shown) == (200, ["first"])


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o604, 0o644, 0o666, 0o602])
def test_a_file_that_every_user_may_read_or_write_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    secret_file(path, "x").chmod(mode)
    if mode & 0o007:
        with pytest.raises(
            SettingsError, match=rf"mode {mode:04o}\): close it with `chmod 600 {path}`.*rotate"
        ):
            TokenFile(path, "--token-file")
    else:
        assert read_secret(path, "--token-file") == "x"


def test_a_secret_is_never_written_over_another(path: Path) -> None:
    write_secret(path, "good")
    with pytest.raises(StorageError, match="File exists"):
        write_secret(path, "better")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("good\n", 0o600)


def test_who_sends_a_secret_into_a_file_of_everybody_is_told(tmp_path: Path) -> None:
    program = "from service.secret_files import print_secret; print_secret('fo_x')"
    for mode, told in ((0o644, True), (0o600, False)):
        out = tmp_path / f"{mode}"
        with out.open("wb") as file:
            out.chmod(mode)
            done = subprocess.run(
                [sys.executable, "-c", program], stdout=file, stderr=subprocess.PIPE, text=True, check=True
            )
        assert (out.read_text(), "use --out FILE" in done.stderr) == ("fo_x\n", told)
