"""A bearer token that a program of ours holds in a file: rotated there, it is used from the next request on, without a restart."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx

from runtime.errors import SettingsError
from service.secret_files import read_secret

__all__ = ["TokenFile"]


class TokenFile(httpx.Auth):
    """A bearer token from a file, for httpx: read again when the file changes, and when the token is refused.

    While its new content cannot be used, what was read before goes on: a file is empty for a moment when it is written in place.

    Args:
        path: the file.
        key: the setting or option that names it.

    Raises:
        SettingsError: as `read_secret`.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._seen = self._stamp()
        self._token = read_secret(path, key)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._read(stamp)
        token = self._token
        request.headers["Authorization"] = f"Bearer {token}"
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._read(self._stamp())
            if self._token != token:
                request.headers["Authorization"] = f"Bearer {self._token}"
                yield request

    def _read(self, stamp: tuple[int, ...]) -> None:
        try:
            self._token, self._seen = read_secret(self._path, self._key), stamp
        except SettingsError:
            return

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size
