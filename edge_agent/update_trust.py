"""What this device believes of the signed repository: which releases are listed, and whose instructions are obeyed.

::

    root.json (pinned in agent.toml) ─► files of state_dir/trust ─► believed as it was once ──┐
                                └────► the fleet's /v1/trust/ ─► refresh: believed, and fresh ─┴─► check_listed, fleet_keys, ...

Two degrees. **Believed**: it was verified from the pinned root on, some time. It lasts, whatever the clock says: a device whose
repository ended still obeys its fleet and can go back to what proved itself here. **Fresh**: nothing on the way has ended by the
earliest time that it can be. Only a fresh list lets a release in that was not here before.

A question that changed nothing costs one request (ETag of ``timestamp.json``). That skips the look for a newer root: so everything is
asked at least once a day, and a fleet that hides something hides it until the timestamp ends, as if it did not answer.

Any thread may ask; `refresh` blocks for the road's own patience.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.errors import FleetError, FleetNotFoundError, ReleaseRefusedError, UpdateTrustError
from edge_agent.update_trust_files import TIMESTAMP, TrustFiles, is_same_role
from protocol.bundle import TrustedKeys
from runtime.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from edge_agent.settings import Settings
    from edge_agent.trusted_clock import TrustedClock
    from edge_agent.update_trust_client import Repository

__all__ = ["LOOK_EVERY_S", "NOBODY", "Fetch", "Fetched", "UpdateTrust", "open_trust", "read_root"]

log: Final = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 3600.0
"""How often it is asked whether something changed. An instruction asks at once; this bounds how long a taken-back key is obeyed."""
LOOK_EVERY_S: Final = 60.0
"""How often it is looked whether it is time; with it, how soon after the fleet is back something fresh is known."""
WHOLE_EVERY_S: Final = 86_400.0
"""How often a newer root is looked for, though the timestamp did not change."""
SOON_S: Final = 3 * 86_400.0
"""So long before its end a person is told, on the device as well."""
_MOST_TIMESTAMP_BYTES: Final = 16 * 1024
NOBODY: Final = TrustedKeys(())


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file of the repository; `content` is None where it is the one that `etag` named."""

    content: bytes | None
    etag: str = ""


class Fetch(Protocol):
    """The road to the repository; `edge_agent.fleet_client.FleetClient.trust_file` is one."""

    def __call__(self, name: str, most_bytes: int, etag: str = "") -> Fetched:
        """A file by its name; raises FleetError, FleetNotFoundError where there is none."""


class UpdateTrust:
    """The trust of one device in one repository.

    Args:
        root: the pinned root, see `read_root`.
        files: where what was believed is kept.
        family: of this device.
        fetch: the road; None: there is none, and only what lies on the disk is believed.
        earliest_s: `TrustedClock.earliest_s`.
        boot_s: seconds that nobody can set.
    """

    def __init__(
        self,
        *,
        root: bytes,
        files: TrustFiles,
        family: str,
        fetch: Fetch | None,
        earliest_s: Callable[[], float],
        boot_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._files, self._family = root, files, family
        self._fetch, self._earliest_s, self._boot_s = fetch, earliest_s, boot_s
        self._asking = threading.Lock()
        self._etag = ""
        self._asked_s = self._whole_s = float("-inf")
        self._trouble = self._unkept = ""
        self._is_doubted = False
        self._ahead: dict[str, bytes] = {}
        self._believed = self._recall()

    def refresh(self) -> bool:
        """Ask the fleet what the repository says now; what was believed before stays where that is not believed.

        Returns:
            Whether it says something else than before.

        Raises:
            FleetError: the road.
            UpdateTrustError: what came is not signed by whom it must be, is older than what was seen, has ended, or is too long.
        """
        with self._asking:
            if self._fetch is None:
                raise UpdateTrustError("this device has no [fleet] to ask for the signed repository")
            before = self._believed
            try:
                self._ask(self._fetch)
            except (FleetError, UpdateTrustError) as error:
                self._trouble, self._is_doubted = str(error), isinstance(error, UpdateTrustError)
                raise
            self._trouble, self._is_doubted, self._asked_s = "", False, self._boot_s()
            return self._believed is not before

    def is_due(self) -> bool:
        """Whether it is time to ask again: after an hour, and for as long as nothing fresh is known."""
        return self._boot_s() - self._asked_s >= CHECK_EVERY_S or bool(self._ended())

    def release_keys(self) -> TrustedKeys:
        """Whose signature the releases of this device's family bear; nobody's while no repository is known."""
        return self._believed.release_keys if self._believed is not None else NOBODY

    def fleet_keys(self) -> tuple[EllipticCurvePublicKey, ...]:
        """Whose instructions this device obeys; nobody's while no repository is known. They outlast the end of the metadata."""
        return self._believed.fleet_keys if self._believed is not None else ()

    def has_listed(self, release: str, sha256: str, length: int) -> bool:
        """Whether what was believed last lists exactly these bytes, fresh or not: for what lies on this disk already."""
        try:
            return self._believed is not None and self._believed.listed(release) == (length, sha256)
        except UpdateTrustError:
            return False

    def check_listed(self, release: str, sha256: str, length: int) -> None:
        """Let a release in: asks the fleet first, and believes what is fresh where the fleet does not answer.

        Raises:
            ReleaseRefusedError: a fresh list does not name it, or names other bytes.
            UpdateTrustError: no list is fresh.
            FleetError: the fleet does not answer, and what is known does not list it.
        """
        away: FleetError | UpdateTrustError | None = None
        try:
            self.refresh()
        except (FleetError, UpdateTrustError) as error:
            away = error
        believed, ended = self._believed, self._ended()
        if believed is None or ended:
            raise away or UpdateTrustError(f"{release} cannot be let in: {ended}")
        listed = believed.listed(release)
        if listed == (length, sha256):
            return
        if away is not None:
            raise away
        what = (
            "does not list it"
            if listed is None
            else f"lists {listed[0]} bytes with SHA-256 {listed[1][:12]}…"
        )
        raise ReleaseRefusedError(
            f"{release}, {length} bytes with SHA-256 {sha256[:12]}…, is not let in: the signed repository {what}"
        )

    def problems(self) -> list[str]:
        """What a person should know, a sentence each."""
        ended = self._ended()
        if ended:
            found = f"nothing new is installed: {ended}{f'; last answer: {self._trouble}' if self._trouble else ''}"
        elif self._is_doubted:
            found = f"the fleet serves a repository that this device does not believe, and what it knew holds: {self._trouble}"
        elif self._believed is not None and self._believed.family_trouble:
            found = f"nothing new is installed: {self._believed.family_trouble}"
        else:
            found = self._ends_soon()
        return [text for text in (found, self._unkept) if text]

    def words(self) -> str:
        """The repository in one line, for ``fedge-agent status``."""
        if (believed := self._believed) is None:
            return "none known yet"
        versions = ", ".join(f"{role} {version}" for role, version in believed.versions.items())
        role = min(believed.ends_s, key=lambda name: believed.ends_s[name])
        return f"{versions}; good until {_day(believed.ends_s[role])} ({role})"

    def _recall(self) -> Repository | None:
        with suppress(UpdateTrustError):
            if self._files.ahead.names():
                self._walk(self._files.ahead.read, now_s=None, seen=self._ahead)
        try:
            return self._walk(self._files.read, now_s=None)
        except UpdateTrustError as error:
            log.warning("repository_not_known error=%s", error)
            return None

    def _ask(self, fetch: Fetch) -> None:
        is_whole = self._believed is None or self._boot_s() - self._whole_s >= WHOLE_EVERY_S
        if self._etag and not is_whole and self._is_unchanged(fetch):
            if ended := self._ended():
                raise UpdateTrustError(ended)
            return
        etag = ""

        def read(name: str, most_bytes: int) -> bytes | None:
            nonlocal etag
            try:
                answer = fetch(name, most_bytes)
            except FleetNotFoundError:
                return None
            etag = answer.etag if name == TIMESTAMP else etag
            return answer.content

        known = {} if self._believed is None else dict(self._believed.files)
        for name, content in self._ahead.items():
            known = {other: held for other, held in known.items() if not is_same_role(other, name)}
            known[name] = content
        seen: dict[str, bytes] = {}
        try:
            self._believed = self._walk(read, now_s=self._earliest_s(), known=known, seen=seen)
        except (FleetError, UpdateTrustError):
            self._etag = ""  # what was believed is not the newest any more: "unchanged" would say it is
            if seen != self._ahead and not seen.items() <= known.items():
                self._ahead = seen
                self._keep(self._files.ahead, seen)
            raise
        self._etag, self._whole_s = etag, self._boot_s()
        self._keep(self._files, self._believed.files)
        if self._ahead:
            self._ahead = {}
            self._keep(self._files.ahead, {})

    def _keep(self, files: TrustFiles, content: Mapping[str, bytes]) -> None:
        try:
            files.keep(content)
            self._unkept = ""
        except StorageError as error:  # it holds until the next start, which asks anew
            log.warning("repository_not_kept error=%s", error)
            self._unkept = f"what the signed repository says could not be written down: {error}"

    def _is_unchanged(self, fetch: Fetch) -> bool:
        # What comes instead is asked for again, in its order: some hundred bytes, once a day.
        return fetch(TIMESTAMP, _MOST_TIMESTAMP_BYTES, self._etag).content is None

    def _walk(
        self,
        read: Callable[[str, int], bytes | None],
        *,
        now_s: float | None,
        known: Mapping[str, bytes] = MappingProxyType({}),
        seen: dict[str, bytes] | None = None,
    ) -> Repository:
        from edge_agent.update_trust_client import believe  # tuf: 4 MB that a status command does not need

        return believe(self._root, self._family, read, now_s=now_s, known=known, seen=seen)

    def _ended(self) -> str:
        """Why nothing is fresh, or empty."""
        if (believed := self._believed) is None:
            return "no signed repository is known yet"
        now_s = self._earliest_s()
        for role, end_s in believed.ends_s.items():
            if now_s >= end_s:
                return f"the repository's {role} ended on {_day(end_s)}, and by this device's clock it is {_day(now_s)}"
        return ""

    def _ends_soon(self) -> str:
        """Of the roles that people sign: the others are renewed every day."""
        if self._believed is None:
            return ""
        now_s = self._earliest_s()
        soon = [
            f"{role} on {_day(end_s)}"
            for role, end_s in self._believed.ends_s.items()
            if role not in {"timestamp", "snapshot"} and end_s - now_s < SOON_S
        ]
        return (
            f"the signed repository must be signed anew by its people: {', '.join(soon)} ends" if soon else ""
        )


def open_trust(settings: Settings, clock: TrustedClock, fetch: Fetch | None) -> UpdateTrust:
    """The trust that agent.toml names; raises SettingsError as `read_root`."""
    return UpdateTrust(
        root=read_root(settings.trust.root),
        files=TrustFiles(settings.paths.trust),
        family=settings.family,
        fetch=fetch,
        earliest_s=clock.earliest_s,
        boot_s=clock.boot_s,
    )


def read_root(path: Path) -> bytes:
    """The pinned root, looked at: a file that is none would make every release untrusted.

    Raises:
        SettingsError: it cannot be read, or is no root that signs itself.
    """
    from edge_agent.update_trust_client import check_root

    try:
        root = path.read_bytes()
        check_root(root)
    except OSError as error:
        raise SettingsError(f"trust.root {path} cannot be read: {error.strerror or error}") from None
    except UpdateTrustError as error:
        raise SettingsError(
            f"trust.root {path} cannot be used: {error}; it is the root.json of your fleet's signed repository"
        ) from None
    return root


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
