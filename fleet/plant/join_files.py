"""Join files of a plant: what a device needs to know of it, with a claim that lets in that device alone.

The claim is written into the fleet's database in the transaction in which the file is written: nobody can use what could not be
written, and a file holds no claim that is not there.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.auth.claim_tokens import ClaimTerms, create_claims
from fleet.errors import ConflictError, NotFoundError
from fleet.storage.access_tables import ClaimToken
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.release_tables import Release
from protocol.errors import JoinFileError
from protocol.join_file import JoinFile, write_join_file
from protocol.manifest import FeatureSpec
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import SettingsError
from runtime.unreadable import UNREADABLE
from service.addresses import split_endpoint
from service.plant import Plant

__all__ = ["choose_family", "features_of", "make_join_file", "reading_answers"]


def choose_family(session: Session, plant: Plant, given: str | None) -> str:
    """The family that is meant: the given one, else the only one there is.

    Raises:
        NotFoundError: there is none, or more than one, or not the given one; says which there are.
    """
    released = set(session.scalars(select(Release.family).distinct()))
    known = sorted(released | {file.stem for file in plant.families.glob("*.toml")})
    if given is None and len(known) == 1:
        return known[0]
    told = ", ".join(known) or "none yet: make one with `fedge model from-csv healthy/*.csv --family NAME`"
    if given is None:
        raise NotFoundError(f"which family? There is {told}; give --family")
    if given not in known:
        raise NotFoundError(f"there is no family {given!r:.80}; there is {told}")
    return given


def features_of(session: Session, family: str) -> FeatureSpec | None:
    """What the family's newest release expects of a device's source; None before the first."""
    newest = session.scalars(
        select(Release).where(Release.family == family).order_by(Release.version.desc()).limit(1)
    ).first()
    return None if newest is None else msgspec.convert(newest.manifest["features"], FeatureSpec)


def reading_answers(plant: Plant, family: str) -> dict[str, str]:
    """How recordings of the family's machines are read; raises SettingsError for a file that is damaged."""
    path = plant.reading_file(family)
    content = read_bytes(path)
    try:
        return {} if content is None else msgspec.json.decode(content, type=dict[str, str])
    except UNREADABLE as error:
        raise SettingsError(
            f"{path} is no JSON object of texts: {error}; `fedge model from-csv` writes it"
        ) from None


def make_join_file(
    session: Session,
    plant: Plant,
    terms: ClaimTerms,
    *,
    passphrase: str | None,
    now: float,
) -> Path:
    """Write the join file of the device that `terms` name; returns its path. An open claim of the device from before is void then.

    Raises:
        ConflictError: the device has enrolled already: its name is taken for ever, by its key.
        SettingsError: the plant lacks a file, or the passphrase is too short.
        StorageError: the file cannot be written.
    """
    device = terms.for_device or ""
    _check_new(session, device)
    _void_earlier(session, device, now)
    (claim,) = create_claims(session, terms, 1, now=now, random_bytes=secrets.token_bytes)
    answers = reading_answers(plant, terms.family)
    join = JoinFile(
        tenant=plant.tenant,
        device=device,
        family=terms.family,
        labels=terms.labels,
        fleet_url=plant.fleet_url,
        broker_url=plant.broker_url,
        flower_host=split_endpoint(plant.flower_address).host,
        ca=_text(plant.ca),
        aggregator_key=_text(plant.aggregator_key) if plant.aggregator_key.exists() else None,
        root=_text(plant.root_file),
        claim=claim,
        claim_ends_s=now + terms.lifetime_s,
        features=features_of(session, terms.family),
        answers=answers,
        row_every_s=_row_every_s(answers),
    )
    try:
        content = write_join_file(join, passphrase, secrets.token_bytes)
    except JoinFileError as error:
        raise SettingsError(str(error)) from None
    plant.devices.mkdir(parents=True, exist_ok=True)
    path = plant.join_file(device)
    write_durably(path, content, mode=0o600)
    return path


def _row_every_s(answers: dict[str, str]) -> float | None:
    """Seconds between two rows, where a person has said how many there are in one; None where recordings say it themselves."""
    try:
        rate_hz = float(answers.get("sample_rate", ""))
    except ValueError:
        return None
    return 1 / rate_hz if 1e-9 < rate_hz < 1e9 else None


def _check_new(session: Session, device: str) -> None:
    row = session.get(Device, device)
    if row is None:
        return
    if row.state == DeviceState.REVOKED:
        raise ConflictError(f"{device} was revoked, and its name stays its own: choose another name")
    raise ConflictError(
        f"{device} has joined already. Its folder goes on with the file it had; a device that lost its key needs another name"
    )


def _void_earlier(session: Session, device: str, now: float) -> None:
    is_open = (ClaimToken.for_device == device, ClaimToken.used_at.is_(None), ClaimToken.revoked_at.is_(None))
    for row in session.scalars(select(ClaimToken).where(*is_open)):
        row.revoked_at = now


def _text(path: Path) -> str:
    content = read_bytes(path)
    if content is None:
        raise SettingsError(f"there is no {path}: `fedge init plant` makes what a plant lacks")
    return content.decode()
