"""Who this device is, as enrolment left it in the state directory: ``enrolment.json``. Reading and writing of that one file.

The key that proves it is `edge_agent.identity_key`'s, the certificate for the broker `edge_agent.connection_certificate`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from edge_agent.errors import NotEnrolledError
from edge_agent.settings import Settings
from protocol.labels import Labels
from protocol.limits import MAX_NAME_CHARS
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import SettingsError

__all__ = ["Enrolled", "check_settings", "load_enrolled", "save_enrolled"]

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]


class Enrolled(Struct, frozen=True, kw_only=True):
    """The content of ``enrolment.json``.

    device, tenant, family, site, labels: the fleet's word; `family` is empty where an agent before certificates wrote the file.
    fingerprint: of the identity key that enrolled; empty there, too.
    is_waiting: a person at the fleet has not approved it yet.
    """

    device: Name
    tenant: Name
    family: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""
    site: str = ""
    labels: Labels = field(default_factory=dict)
    fingerprint: str = ""
    is_waiting: bool = False


def load_enrolled(path: Path) -> Enrolled:
    """Read ``enrolment.json``.

    Raises:
        NotEnrolledError: it is missing or damaged; enrol (again).
    """
    content = read_bytes(path)
    if content is None:
        raise NotEnrolledError(f"there is no {path}: run `fedge-agent enrol --config agent.toml` once")
    try:
        return msgspec.json.decode(content, type=Enrolled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotEnrolledError(
            f"{path} is damaged ({error}): run `fedge-agent enrol --config agent.toml` again"
        ) from None


def save_enrolled(path: Path, enrolled: Enrolled) -> None:
    """Write ``enrolment.json``, mode 0600; raises StorageError."""
    write_durably(path, msgspec.json.encode(enrolled), mode=0o600)


def check_settings(settings: Settings, enrolled: Enrolled) -> None:
    """Refuse an agent.toml that is not of this device's enrolment.

    Raises:
        SettingsError: another tenant or family.
    """
    for what, says, known in (
        ("tenant", settings.tenant, enrolled.tenant),
        ("family", settings.family, enrolled.family),
    ):
        if known and says != known:
            raise SettingsError(
                f"{settings.config_file}: {what} = {says!r}, but this device is enrolled in {known!r}: write that. Where a person at the"
                " fleet has assigned it another (fedge-fleet devices assign), run `fedge-agent enrol` once more, with any claim: none is"
                " used; else enrol it under another name with a claim of that"
            )
