"""Whether a device itself said what it is to have said of an installation or a command: the seal of its enrolled key.

These messages decide about executions and commands, so a broker must be able neither to make one nor to change one. A
message without a seal comes from an agent that is older than this fleet, or lost it on the way: it is kept as a dead letter, and its
device is told. One with a wrong seal was made by somebody else: it is counted and told to people, and its device hears nothing, for
it would forget what it has really said under that number. So it is with one without a seal of a device that has a certificate
of this fleet's: its agent seals, and somebody has taken the seal away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import select

from fleet.ingest.judging import Accepted, Refusal, RefusalReason, refuse
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from protocol.errors import SealError
from protocol.identity import load_public_key
from protocol.messages.envelope import Event
from protocol.sealed_events import SEALED_BY_DEVICES, check_seal

__all__ = ["check_reports", "check_sealed_by"]

_UNSIGNED: Final = "; install this fleet's version of the agent on it"


def check_reports(
    database: Database, accepted: Sequence[Accepted], tenant: str
) -> tuple[list[Accepted], list[Refusal]]:
    """Those that may be stored, in their order, and those that their device did not seal. Strangers' are the caller's to refuse."""
    sources = {one.event.source for one in accepted if one.kind in SEALED_BY_DEVICES}
    if not sources:
        return list(accepted), []
    with database.read() as session:
        rows = session.execute(
            select(Device.id, Device.public_key, Device.certificate_serial).where(Device.id.in_(sources))
        ).all()
    keys = {device: pem for device, pem, _ in rows}
    sealing = {device for device, _, certificate in rows if certificate is not None}
    kept, refusals = [], []
    for one in accepted:
        pem = keys.get(one.event.source)
        if one.kind not in SEALED_BY_DEVICES or pem is None:
            kept.append(one)
            continue
        try:
            check_sealed_by(pem, one.event, tenant, one.arrival.received_at)
            kept.append(one)
        except SealError as error:
            is_unsigned = one.event.seal is None and one.event.source not in sealing
            reason = RefusalReason.UNSIGNED if is_unsigned else RefusalReason.FORGED
            why = f"{error}{_UNSIGNED if is_unsigned else ''}"
            refusals.append(refuse(one.arrival, one.event.source, reason, why))
    return kept, refusals


def check_sealed_by(public_key: str, event: Event, tenant: str, now: float) -> None:
    """Raise SealError unless the device that `event` names as its source sealed it with the key of this PEM."""
    check_seal(event, [_key(public_key)], tenant=tenant, device=event.source, now_s=now)


@lru_cache(maxsize=10_000)
def _key(pem: str) -> EllipticCurvePublicKey:
    return load_public_key(pem.encode())
