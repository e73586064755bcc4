"""The fleet's side of enrolment and renewal, as `https_world.serving` serves it: a device CA, and one device that it knows."""

from __future__ import annotations

import base64
import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from https_world import Reply, Request

from edge_agent.settings import FleetSettings, Settings, TrustSettings
from protocol.enrolment import (
    CERTIFICATE_DOMAIN,
    ENROLMENT_DOMAIN,
    CertificateQuestion,
    EnrolmentQuestion,
    certificate_statement,
    enrolment_statement,
)
from protocol.errors import IdentityError, TokenError
from protocol.identity import load_public_key, verify_statement, verify_token

DAY = dt.timedelta(days=1)


class DeviceAuthority:
    """A device CA, and what it signs; each argument that is not the default is a mistake or a lie."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device CA of the test")])
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            self._builder(self.name, self.key.public_key(), now - DAY, now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        request: str,
        *,
        name: str | None = None,
        key: ec.EllipticCurvePublicKey | None = None,
        signed_by: ec.EllipticCurvePrivateKey | None = None,
        begins_days: float = -0.05,
        ends_days: float = 30,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> str:
        """The chain for a PKCS#10 request (both PEM)."""
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        asked_key = asked.public_key()
        assert isinstance(asked_key, ec.EllipticCurvePublicKey)
        subject = (
            asked.subject if name is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        )
        now = dt.datetime.now(dt.UTC)
        leaf = (
            self._builder(subject, key or asked_key, now + begins_days * DAY, now + ends_days * DAY)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(signed_by or self.key, hashes.SHA256())
        )
        return leaf.public_bytes(serialization.Encoding.PEM).decode() + self.pem

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, begins: dt.datetime, ends: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


def settings(root: Path, url: str, ca_file: Path, claim: str | None = "claim-1\n", **more: str) -> Settings:
    """Of a device in `root` that has not enrolled yet."""
    if claim is not None:
        (root / "claim.token").write_text(claim)
    return Settings(
        state_dir=root / "state",
        tenant=more.get("tenant", "demo"),
        family=more.get("family", "pump"),
        hardware="rpi4",
        source={"kind": "simulated"},  # type: ignore[arg-type]  # not looked at here
        trust=TrustSettings(root=root / "root.json"),
        labels={"site": "hall-1"},
        fleet=FleetSettings(url=url, ca_file=ca_file, claim_token_file=root / "claim.token"),
    )


@dataclass
class EnrollingFleet:
    """Answers what a device asks of it, `ahead_days` after today. `lie` goes to `DeviceAuthority.issue`, `answer` over the enrolment's answer."""

    claim: str = "claim-1"
    family: str = "pump"
    approves: bool = True
    revoked: bool = False
    ahead_days: float = 0.0
    lie: dict[str, object] = field(default_factory=dict)
    answer: dict[str, object] = field(default_factory=dict)
    authority: DeviceAuthority = field(default_factory=DeviceAuthority)
    devices: dict[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    issued: list[str] = field(default_factory=list)
    asked: list[EnrolmentQuestion] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        match request.method, request.path:
            case "POST", "/v1/enrolments":
                return self._enrol(token, request.body)
            case "POST", "/v1/device/certificate":
                return self._renew(token, request.body)
            case "GET", "/v1/device/desired" | "/v1/device/commands":
                return Reply(204)
        return Reply(404)

    def _enrol(self, token: str, body: bytes) -> Reply:
        if token != self.claim:
            return Reply(401)
        asked = msgspec.json.decode(body, type=EnrolmentQuestion)
        key = load_public_key(asked.public_key.encode())
        statement = enrolment_statement(
            device=asked.device,
            tenant=asked.tenant,
            family=asked.family,
            identity=key,
            certificate_request=asked.certificate_request,
        )
        try:
            verify_statement(key, ENROLMENT_DOMAIN, statement, base64.b64decode(asked.signature))
        except IdentityError as error:
            return _problem(400, str(error))
        self.asked.append(asked)
        self.devices[asked.device] = key
        answer: dict[str, object] = {
            "status": "enrolled" if self.approves else "waiting",
            "device": asked.device,
            "tenant": asked.tenant,
            "family": self.family,
            "site": "hall-1",
            "labels": {"line": "2"},
            "certificate": self._issue(asked.certificate_request) if self.approves else "",
        }
        return Reply(201, msgspec.json.encode({**answer, **self.answer}))

    def _renew(self, token: str, body: bytes) -> Reply:
        if self.revoked:
            return _problem(403, "device 'x' is revoked")
        question = msgspec.json.decode(body, type=CertificateQuestion)
        asked = question.certificate_request
        for name, key in self.devices.items():
            try:
                verify_token(token, key, "fleet", dt.datetime.now(dt.UTC).timestamp())
            except TokenError:
                continue
            signature = base64.b64decode(question.signature)
            verify_statement(key, CERTIFICATE_DOMAIN, certificate_statement(name, asked), signature)
            if not self.approves:
                return _problem(403, f"device {name!r} waits for a person")
            return Reply(200, msgspec.json.encode({"certificate": self._issue(asked)}))
        return Reply(401)

    def _issue(self, request: str) -> str:
        dates = {"begins_days": self.ahead_days - 0.05, "ends_days": self.ahead_days + 30}
        self.issued.append(self.authority.issue(request, **{**dates, **self.lie}))  # type: ignore[arg-type]  # the test's own words
        return self.issued[-1]


def _problem(status: int, detail: str) -> Reply:
    return Reply(status, msgspec.json.encode({"detail": detail}))
