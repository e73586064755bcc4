"""How a device gets in and stays in: a claim, a key of its own, a signature that proves it, and certificates for its connections.

::

    question ─► names, tenant, key, request, signature ─► known? ─┬─ no ──► the claim: open? of this family? ─► spent ─┐
                                                                  └─ yes ─► same key? not revoked?                     ├─► waiting | certificate
                                                                                                                       ┘
What the device is (family, site, labels) is the claim's word, and later a person's (`fleet.admission`). What it says of itself is
kept as reported. A device that is known by its key gets the same answer again whatever became of its claim: the first one may
have been lost on the way. A claim is spent by nothing but a device that is let in, or waits for a person.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.auth.claim_tokens import claim_id, find_claim, use_claim
from fleet.auth.device_tokens import check_admitted
from fleet.certificate_requests import requested_key
from fleet.device_ca import DeviceCa, Issued
from fleet.errors import BadRequestError, CallerError, ConflictError, TooOftenError, UnacceptableError
from fleet.ingest.rates import TokenBuckets
from fleet.storage.access_tables import ClaimToken
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from protocol.enrolment import (
    CERTIFICATE_DOMAIN,
    ENROLMENT_DOMAIN,
    CertificateAnswer,
    CertificateQuestion,
    EnrolmentAnswer,
    EnrolmentQuestion,
    certificate_statement,
    enrolment_statement,
)
from protocol.errors import IdentityError, TopicError
from protocol.identity import fingerprint, load_public_key, public_key_pem, verify_statement
from protocol.messages.kinds import Kind
from protocol.names import check_name
from protocol.topics import device_topic
from service.errors import ForbiddenError, UnauthenticatedError

__all__ = ["Applicant", "Enrolments"]

REFUSALS_AT_ONCE, SECONDS_PER_REFUSAL = 10, 60.0
"""Refused enrolments by one claim that reach the audit log: whoever stole one must not fill it."""

CERTIFICATES_AT_ONCE, SECONDS_PER_CERTIFICATE = 20, 60.0
"""Certificates of one device. It needs one in weeks; each leaves lines in an audit log that nobody can shorten."""

REMEMBERED: Final = 10_000
"""Claims and devices that are counted for that; beyond it the oldest count begins anew."""

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Applicant:
    """Who asks, proven: it holds `identity` and `connection`. The rest is what it says of itself."""

    device: str
    identity: EllipticCurvePublicKey
    connection: EllipticCurvePublicKey
    family: str
    hardware: str
    labels: dict[str, str]


class Enrolments:
    """Lets devices in, and gives those that are in their certificates.

    Args:
        database: the fleet's.
        authority: signs certificates.
        tenant: of this fleet.
        reserved: names of services, which are never a device's, in lower case.
        certificate_lifetime_s: how long a certificate is good.
    """

    def __init__(
        self,
        database: Database,
        authority: DeviceCa,
        *,
        tenant: str,
        reserved: Collection[str],
        certificate_lifetime_s: float,
    ) -> None:
        self._database, self._authority = database, authority
        self._tenant, self._reserved = tenant, frozenset(reserved)
        self._lifetime_s = certificate_lifetime_s
        self._refusals = TokenBuckets(1 / SECONDS_PER_REFUSAL, REFUSALS_AT_ONCE, most=REMEMBERED)
        self._certificates = TokenBuckets(1 / SECONDS_PER_CERTIFICATE, CERTIFICATES_AT_ONCE, most=REMEMBERED)

    def enrol(self, question: EnrolmentQuestion, claim: str, now: float) -> EnrolmentAnswer:
        """Let a device in durably, or have it wait; to be asked again, which changes nothing and spends nothing.

        Args:
            question: as it came.
            claim: the token's text.
            now: Unix seconds.

        Raises:
            BadRequestError: a name, key, request or signature is not valid.
            UnacceptableError: its settings name another tenant or family than the fleet or the claim.
            UnauthenticatedError: the claim is unknown, expired, revoked or used.
            ConflictError: the id is taken by another key or by a service, or the key by another id.
            ForbiddenError: the device was revoked.
            TooOftenError: it asks again and again.
        """
        applicant = self._proven(question)
        try:
            with self._database.write() as session:
                return self._admit(session, applicant, find_claim(session, claim), now)
        except (CallerError, ForbiddenError, UnauthenticatedError) as error:
            self._note_refusal(applicant, claim, str(error), now)
            raise

    def renew(self, device_id: str, question: CertificateQuestion, now: float) -> CertificateAnswer:
        """The next certificate of a device that has said who it is.

        Raises:
            BadRequestError: the request is not valid, or not signed by the device's identity key: who overheard its token has
                a key of his own certified else, for weeks.
            ForbiddenError: it is revoked, or waits.
            TooOftenError: it asks again and again.
        """
        key = requested_key(question.certificate_request, device_id)
        with self._database.write() as session:
            device = session.get_one(Device, device_id)
            check_admitted(device)
            _check_asked_by(device, question)
            _check_two_keys(device.fingerprint, key)
            issued = self._certify(device, key, now)
            audit.record(
                session,
                at=now,
                actor=f"device:{device_id}",
                action="certificate_renewed",
                subject=device_id,
                certificate=issued.serial,
                ends_at=issued.ends_at,
            )
        return CertificateAnswer(certificate=issued.chain)

    def _proven(self, question: EnrolmentQuestion) -> Applicant:
        try:
            device_topic(self._tenant, question.device, Kind.BIRTH)  # the id must be usable as a topic level
            check_name(question.family, "family")
            identity = load_public_key(question.public_key.encode())
            connection = requested_key(question.certificate_request, question.device)
            statement = enrolment_statement(
                device=question.device,
                tenant=question.tenant,
                family=question.family,
                identity=identity,
                certificate_request=question.certificate_request,
            )
            verify_statement(identity, ENROLMENT_DOMAIN, statement, _decoded(question.signature))
        except (TopicError, IdentityError) as error:
            raise BadRequestError(str(error)) from None
        except UnicodeEncodeError:  # a JSON escape may name half a character
            raise BadRequestError("a text of the enrolment is no Unicode text") from None
        if question.tenant != self._tenant:
            raise UnacceptableError(
                f"this fleet is tenant {self._tenant!r}, and the device's settings say {question.tenant[:80]!r}: "
                f'set tenant = "{self._tenant}" in agent.toml; the claim is not used'
            )
        _check_two_keys(fingerprint(identity), connection)
        return Applicant(
            device=question.device,
            identity=identity,
            connection=connection,
            family=question.family,
            hardware=question.hardware,
            labels=dict(question.labels),
        )

    def _admit(
        self, session: Session, applicant: Applicant, claim: ClaimToken, now: float
    ) -> EnrolmentAnswer:
        if applicant.device.casefold() in self._reserved:
            raise ConflictError(f"device id {applicant.device!r} is the name of a service; choose another")
        device = session.get(Device, applicant.device)
        is_new = device is None
        if device is None:
            device = _take_in(session, applicant, claim, now)
        else:
            _recognise(device, applicant)
            device.enrolled_again_at = now
        device.hardware, device.reported_labels = applicant.hardware, applicant.labels
        device.reported_family = applicant.family
        is_waiting = device.state == DeviceState.WAITING
        certificate = None if is_waiting else self._certify(device, applicant.connection, now)
        if is_new or not is_waiting:
            action = "device_waits" if is_waiting else "device_enrolled"
            audit.record(
                session,
                at=now,
                actor=f"claim:{claim_id(claim)}" if is_new else f"device:{device.id}",
                action=action if is_new else "device_enrolled_again",
                subject=device.id,
                fingerprint=device.fingerprint,
                family=device.family,
                site=device.site,
                certificate=certificate and certificate.serial,
            )
        return EnrolmentAnswer(
            status="waiting" if is_waiting else "enrolled",
            device=device.id,
            tenant=self._tenant,
            family=device.family,
            site=device.site,
            labels=device.labels,
            certificate="" if certificate is None else certificate.chain,
        )

    def _certify(self, device: Device, key: EllipticCurvePublicKey, now: float) -> Issued:
        if not self._certificates.take(device.id, 1.0, now):
            raise TooOftenError(
                f"device {device.id!r} got {CERTIFICATES_AT_ONCE} certificates in a row; the next one in {SECONDS_PER_CERTIFICATE:.0f} s"
            )
        issued = self._authority.issue(device.id, key, lifetime_s=self._lifetime_s, now=now)
        device.certificate_serial, device.certificate_issuer = issued.serial, issued.issuer
        device.certificate_ends_at = issued.ends_at
        return issued

    def _note_refusal(self, applicant: Applicant, claim: str, reason: str, now: float) -> None:
        with self._database.write() as session:
            try:
                name = claim_id(find_claim(session, claim))
            except UnauthenticatedError:
                return  # a stranger: nobody's claim
            if self._refusals.take(name, 1.0, now):
                _log.warning("enrolment_refused", device=applicant.device, claim=name, reason=reason)
                audit.record(
                    session,
                    at=now,
                    actor=f"claim:{name}",
                    action="enrolment_refused",
                    subject=applicant.device,
                    fingerprint=fingerprint(applicant.identity),
                    reason=reason,
                )


def _take_in(session: Session, applicant: Applicant, claim: ClaimToken, now: float) -> Device:
    mark = fingerprint(applicant.identity)
    other = session.scalar(select(Device).where(Device.fingerprint == mark))
    if other is not None:
        _check_not_revoked(other)
        raise ConflictError(f"this key is already enrolled as device {other.id!r}; each device needs its own")
    _check_terms(claim, applicant)
    use_claim(claim, applicant.device, now)
    device = Device(
        id=applicant.device,
        fingerprint=mark,
        public_key=public_key_pem(applicant.identity).decode(),
        family=claim.family,
        site=claim.site,
        labels=claim.labels,
        claim=claim_id(claim),
        state=DeviceState.WAITING if claim.needs_approval else DeviceState.ENROLLED,
        enrolled_at=now,
        hardware=applicant.hardware,
    )
    session.add(device)
    return device


def _check_terms(claim: ClaimToken, applicant: Applicant) -> None:
    if claim.for_device not in {None, applicant.device}:
        raise UnacceptableError(
            f"claim {claim_id(claim)} is for device {claim.for_device!r}, and this is {applicant.device!r}; the claim is not used"
        )
    if claim.family != applicant.family:
        raise UnacceptableError(
            f"claim {claim_id(claim)} is for family {claim.family!r}, and the device's settings say {applicant.family!r}: "
            f'set family = "{claim.family}" in agent.toml, or bring a claim of that family; the claim is not used'
        )


def _recognise(device: Device, applicant: Applicant) -> None:
    mark = fingerprint(applicant.identity)
    _check_not_revoked(device)
    if device.fingerprint != mark:
        raise ConflictError(
            f"device {device.id!r} is enrolled with key {device.fingerprint[:12]}…, this is {mark[:12]}…; enrol the new key under another id"
        )
    if device.family != applicant.family:
        raise UnacceptableError(
            f"device {device.id!r} is of family {device.family!r}, and its settings say {applicant.family!r}: "
            f'set family = "{device.family}" in agent.toml; only a person changes a family (fedge-fleet devices assign)'
        )


def _check_not_revoked(device: Device) -> None:
    if device.state == DeviceState.REVOKED:
        raise ForbiddenError(
            f"device {device.id!r} is revoked and cannot enrol again, under this or any other name"
        )


def _check_asked_by(device: Device, question: CertificateQuestion) -> None:
    statement = certificate_statement(device.id, question.certificate_request)
    identity = load_public_key(device.public_key.encode())
    try:
        verify_statement(identity, CERTIFICATE_DOMAIN, statement, _decoded(question.signature))
    except IdentityError as error:
        raise BadRequestError(f"{error}; the certificate request must be signed by it") from None


def _decoded(signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True)
    except ValueError:
        raise BadRequestError("signature is not base64") from None


def _check_two_keys(identity: str, connection: EllipticCurvePublicKey) -> None:
    """The key of certificates is another than that which signs: what signs for good is never what TLS uses."""
    if fingerprint(connection) == identity:
        raise BadRequestError(
            "the certificate request is for the identity key; make a connection key of its own for it"
        )
