"""UNTIL every device asks for a certificate and the broker for one: the enrolment of before, and broker passwords.

The old body asks for no certificate. It is admitted by the same rules; what it is, is its claim's word.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct, field

from fleet.auth.device_tokens import check_admitted
from fleet.broker_accounts.passwords import BrokerPasswords
from fleet.enrolment import Applicant
from fleet.errors import BadRequestError, ConflictError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from protocol.errors import IdentityError, TopicError
from protocol.identity import fingerprint, load_public_key, verify_statement
from protocol.labels import Labels, OneLine
from protocol.messages.kinds import Kind
from protocol.names import check_name
from protocol.topics import device_topic

__all__ = ["FormerQuestion", "confirm_password", "give_password", "read_former"]

STATEMENT_DOMAIN: Final = "enrolment/v1"


class FormerQuestion(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/enrolments`` of an agent of before."""

    device: Annotated[str, Meta(min_length=1, max_length=64)]
    public_key: Annotated[str, Meta(max_length=4096)]
    hardware: OneLine
    family: Annotated[str, Meta(min_length=1, max_length=64)]
    labels: Labels = field(default_factory=dict)
    signature: Annotated[bytes, Meta(max_length=768)]


def read_former(question: FormerQuestion, tenant: str) -> Applicant:
    """Who asks, proven; raises BadRequestError."""
    try:
        device_topic(tenant, question.device, Kind.BIRTH)
        check_name(question.family, "family")
        key = load_public_key(question.public_key.encode())
        statement = f"{question.device}\n{fingerprint(key)}".encode()
        verify_statement(key, STATEMENT_DOMAIN, statement, question.signature)
    except (TopicError, IdentityError) as error:
        raise BadRequestError(str(error)) from None
    return Applicant(
        device=question.device,
        identity=key,
        connection=None,
        family=question.family,
        hardware=question.hardware,
        labels=dict(question.labels),
    )


def give_password(database: Database, device_id: str, passwords: BrokerPasswords) -> str:
    """A new broker password, kept as its hash."""
    password, entry = passwords.new(device_id)
    with database.write() as session:
        session.get_one(Device, device_id).broker_password_hash = entry
    return password


def confirm_password(database: Database, device_id: str, password: str, passwords: BrokerPasswords) -> None:
    """Check that it still holds once the broker was told.

    Raises:
        ForbiddenError: the device was revoked meanwhile.
        ConflictError: it was enrolled once more meanwhile, so another password holds.
    """
    with database.read() as session:
        device = session.get_one(Device, device_id)
        check_admitted(device)
        if passwords.recover(device_id, device.broker_password_hash) != password:
            raise ConflictError(f"device {device_id!r} was enrolled once more meanwhile; repeat this call")
