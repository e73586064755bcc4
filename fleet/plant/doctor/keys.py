"""Certificates, keys and secrets of a plant: good for whom, until when, and open to whom."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fleet.device_ca import CA_LIFETIME
from fleet.plant.certificates import SERVICES, names_in, read_certificate
from fleet.plant.doctor.findings import DAY_S, Finding, bad, day, doubtful, well
from fleet.plant.services import dialled
from fleet.trust.renewal import WARN_BEFORE_S, expiries
from fleet.trust.repository import TrustRepository
from protocol.errors import IdentityError
from protocol.identity import load_private_key
from runtime.errors import FedgeError
from service.plant import Plant
from service.served_certificate import WARN_DAYS

__all__ = ["examine_certificates", "examine_repository", "examine_secrets"]

RENEW: Final = "fedge init plant --renew, then fedge down and fedge up"


def examine_certificates(plant: Plant, now: float) -> Iterator[Finding]:
    """The CA's and each service's: signed by it, of its key, for the names that are dialled, and until when."""
    try:
        authority = read_certificate(plant.ca)
    except FedgeError as error:
        yield bad("certificates", str(error), "restore pki/ from the backup; without one: fedge init plant")
        return
    yield _in_time("certificate of the CA", authority, now, "make a new CA: docs/broker.md", warn_days=365.0)
    urls = {
        "broker": plant.local_broker_url,
        "fleet": plant.local_fleet_url,
        "aggregator": plant.local_aggregator_url,
    }
    for service in SERVICES:
        matter = f"certificate of the {service}"
        try:
            found = read_certificate(plant.certificate(service))
            key = load_private_key(plant.key(service).read_bytes())
        except (FedgeError, IdentityError, OSError) as error:
            yield bad(matter, str(error), RENEW)
            continue
        missing = {plant.description.host, dialled(urls[service]).host} - set(names_in(found))
        if found.public_key() != key.public_key():
            yield bad(
                matter, f"{plant.certificate(service)} and {plant.key(service)} do not belong together", RENEW
            )
        elif not _is_signed_by(found, authority):
            yield bad(matter, f"{plant.certificate(service)} is not signed by {plant.ca}", RENEW)
        elif missing:
            yield bad(matter, f"it does not name {', '.join(sorted(missing))}, which is dialled", RENEW)
        else:
            yield _in_time(
                matter, found, now, RENEW, warn_days=WARN_DAYS, names=f", for {plant.description.host}"
            )
    try:
        devices = read_certificate(plant.fleet_data / "device-ca.pem")
    except FedgeError as error:
        yield bad("certificate of the device CA", str(error), "restore fleet/data from the backup")
    else:
        rotate = "fedge fleet device-ca rotate (docs/broker.md)"
        warn_days = CA_LIFETIME.days / 10
        yield _in_time("certificate of the device CA", devices, now, rotate, warn_days=warn_days)


def examine_secrets(plant: Plant) -> Iterator[Finding]:
    """Who may read what nobody but this plant's owner should; and what should not be on this machine."""
    secrets = [
        *plant.pki.glob("*.key"),
        *plant.offline.glob("*.key"),
        *plant.tokens.glob("*"),
        plant.fleet_config,
        *plant.fleet_data.rglob("*.key"),
        *plant.aggregator_data.glob("*.key"),
        *plant.devices.glob("*.join"),
    ]
    there = [path for path in secrets if path.is_file()]
    open_ones = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_ones:
        names = " ".join(str(path) for path in open_ones)
        yield bad(
            "secrets",
            f"others can read {names}",
            f"chmod 600 {names}; who may have read them can be us: renew",
        )
    else:
        yield well("secrets", f"{len(there)} files, all for their owner alone")
    offline = sorted(path.name for path in plant.offline.glob("*.key"))
    if offline:
        yield doubtful(
            "offline keys",
            f"{plant.offline} is on this machine: {', '.join(offline)}",
            "move the folder to a stick in a safe; back only for a new family, a renewal or a lost key",
        )
    else:
        yield well("offline keys", "not on this machine")


def examine_repository(plant: Plant, now: float) -> Iterator[Finding]:
    """The signed repository that devices believe: there, whole, and good until when."""
    matter = "signed repository"
    repository = TrustRepository(plant.fleet_data / "trust")
    try:
        published = repository.published()
    except (FedgeError, OSError) as error:
        yield bad(matter, str(error), "restore fleet/data/trust from the backup")
        return
    if not plant.root_file.exists():
        yield bad(matter, f"{plant.root_file}, which devices pin, is not there", "fedge init plant")
    # snapshot and timestamp the fleet signs anew by itself
    left = {
        role: left_s
        for role, left_s in expiries(published, now).items()
        if role not in {"snapshot", "timestamp"}
    }
    role = min(left, key=left.__getitem__)
    renew = f"fedge fleet trust renew --role {role} (docs/releases.md)"
    until = f"{role} is good until {day(now + left[role])}"
    if left[role] <= 0:
        yield bad(matter, f"{role} ended on {day(now + left[role])}: devices take no release", renew)
    elif left[role] < WARN_BEFORE_S:
        yield doubtful(matter, until, renew)
    else:
        yield well(matter, until)


def _in_time(
    matter: str, certificate: x509.Certificate, now: float, remedy: str, *, warn_days: float, names: str = ""
) -> Finding:
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    days = (ends - now) / DAY_S
    if now < begins:
        return bad(
            matter, f"it begins on {day(begins)}, and here it is {day(now)}", "set this machine's clock"
        )
    if days <= 0:
        return bad(matter, f"it ended on {day(ends)}", remedy)
    seen = f"good until {day(ends)} ({days:.0f} days){names}"
    return doubtful(matter, seen, remedy) if days < warn_days else well(matter, seen)


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
