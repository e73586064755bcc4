"""A publication is tried on a real client before a device sees it: one that is new, and one that has the state before.

What that client refuses, devices would refuse; the person who publishes is told, and nothing is changed. It reads files
from memory; its clock is this machine's, as the library has no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from fleet.errors import UnacceptableError

__all__ = ["Files", "check_devices_follow"]

_BASE: Final = "memory:///"


class Files(FetcherInterface):
    """A repository's files by name, as a client fetches them."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self._files.get(url.removeprefix(_BASE))
        if content is None:
            raise DownloadHTTPError(f"there is no {url}", 404)
        return iter((content,))


def check_devices_follow(
    before: Mapping[str, bytes], changed: Mapping[str, bytes], targets: Mapping[str, str]
) -> None:
    """Refuse a publication that a device could not follow.

    Args:
        before: every file that is served now; empty before the first publication.
        changed: the files that come to it or replace them.
        targets: role → a target path of it, for each role whose list is among `changed`.

    Raises:
        UnacceptableError: a device that is new, or one that has `before`, would refuse.
    """
    after = {**before, **changed}
    for known, whose in ((before, "a device that is up to date now"), ({}, "a new device")):
        with tempfile.TemporaryDirectory(prefix="fedge-rehearsal-") as folder:
            # what has expired, because this fleet was away, is no reason against what comes now
            with suppress(RepositoryError, DownloadError):
                if known:
                    _refresh(Path(folder), known, {})
            try:
                _refresh(Path(folder), after, targets)
            except (RepositoryError, DownloadError) as error:
                raise UnacceptableError(f"{whose} would refuse this: {error}") from None


def _refresh(folder: Path, files: Mapping[str, bytes], targets: Mapping[str, str]) -> None:
    client = Updater(str(folder), _BASE, fetcher=Files(files), bootstrap=files["1.root.json"])
    client.refresh()
    for role, path in targets.items():
        if client.get_targetinfo(path) is None:
            raise RepositoryError(f"{role} does not list {path}")
