"""The file that lets one device join its fleet: whom to call, whom to believe, what it is, and the claim that lets it in, once.

Made by ``fedge-fleet device add``, carried to the device by a person, opened by ``fedge-agent join``. JSON, in the open or sealed
with a passphrase::

    {"fedge_join": 1, "device": "valve-1", …}
    {"fedge_join": 1, "sealed": {"salt": …, "nonce": …, "text": …}}      scrypt(passphrase, salt) ─► AES-256-GCM(the JSON above)

It holds one secret, the claim: whoever has the file before the device has enrolled can join as that device. Everything else is public.
Cost and cipher belong to the version and are not read from the file, so that a forged one cannot ask for a gigabyte.

Source: RFC 7914 (scrypt); NIST SP 800-38D (AES-GCM).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta, Struct, field

from protocol.errors import JoinFileError
from protocol.labels import Labels
from protocol.limits import MAX_NAME_CHARS
from protocol.manifest import FeatureSpec
from protocol.names import NAME_PATTERN
from runtime.unreadable import UNREADABLE

__all__ = ["MOST_BYTES", "JoinFile", "is_sealed", "open_join_file", "write_join_file"]

MOST_BYTES: Final = 1 << 20
"""Of the whole file: 4096 columns with long names, and room."""
LEAST_PASSPHRASE_CHARS: Final = 8

_COST: Final = 1 << 15
"""32 MB and a tenth of a second on a laptop, a second on a small board."""
_SEALED_AS: Final = b"fedge join file 1"

T = TypeVar("T", bound=Struct)

Name = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}$(?!\n)", max_length=MAX_NAME_CHARS)]
Pem = Annotated[str, Meta(max_length=65_536, pattern=r"^\s*-----BEGIN ")]
Token = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[!-~]+$(?!\n)")]
Host = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$(?!\n)")]
Answer = Annotated[str, Meta(max_length=2000)]


class JoinFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device is told by the person who lets it in.

    fleet_url, broker_url: ``https://host:port``, ``mqtts://host:port``; flower_host: the only one that an invitation may lead to.
    ca: of the services, PEM. aggregator_key: PEM; without it the device never trains. root: the first ``root.json``, as it stands.
    claim: lets in `device` and nobody else, until `claim_ends_s` (Unix seconds).
    features: what the family's models expect of the device's source, where a release of it is known.
    answers: how the recordings of this family are read (``KEY`` → ``VALUE`` of ``--answer``).
    row_every_s: seconds between two rows of those recordings, where they say so.
    """

    fedge_join: Literal[1] = 1
    tenant: Name
    device: Name
    family: Name
    labels: Labels = field(default_factory=dict)
    fleet_url: Annotated[str, Meta(max_length=300, pattern=r"^https://[!-~]+$(?!\n)")]
    broker_url: Annotated[str, Meta(max_length=300, pattern=r"^mqtts?://[!-~]+$(?!\n)")]
    flower_host: Host | None = None
    ca: Pem
    aggregator_key: Pem | None = None
    root: Annotated[str, Meta(max_length=262_144)]
    claim: Token
    claim_ends_s: Annotated[float, Meta(gt=0, le=1e12)]
    features: FeatureSpec | None = None
    answers: Annotated[dict[Answer, Answer], Meta(max_length=1000)] = field(default_factory=dict)
    row_every_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class _Seal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    salt: Annotated[str, Meta(max_length=64)]
    nonce: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=2 * MOST_BYTES)]


class _Sealed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fedge_join: Literal[1] = 1
    sealed: _Seal


def write_join_file(join: JoinFile, passphrase: str | None, random_bytes: Callable[[int], bytes]) -> bytes:
    """The content of the file; sealed where a passphrase is given.

    Raises:
        JoinFileError: the passphrase is too short, or the whole too large.
    """
    plain = msgspec.json.format(msgspec.json.encode(join), indent=2) + b"\n"
    if len(plain) > MOST_BYTES // 2:
        raise JoinFileError(f"a join file of {len(plain):,} bytes; at most {MOST_BYTES // 2:,} are read")
    if passphrase is None:
        return plain
    if len(passphrase) < LEAST_PASSPHRASE_CHARS:
        raise JoinFileError(
            f"a passphrase of {len(passphrase)} characters; at least {LEAST_PASSPHRASE_CHARS} keep the claim for a week"
        )
    salt, nonce = random_bytes(16), random_bytes(12)
    text = AESGCM(_key(passphrase, salt)).encrypt(nonce, plain, _SEALED_AS)
    salt64, nonce64, text64 = (base64.b64encode(part).decode() for part in (salt, nonce, text))
    sealed = _Sealed(sealed=_Seal(salt=salt64, nonce=nonce64, text=text64))
    return msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"


def is_sealed(content: bytes) -> bool:
    """Whether a passphrase opens it; False for anything that is no join file."""
    try:
        return "sealed" in msgspec.json.decode(content, type=dict[str, Any])
    except UNREADABLE:
        return False


def open_join_file(content: bytes, passphrase: str | None) -> JoinFile:
    """Read what `write_join_file` wrote.

    Raises:
        JoinFileError: it is no join file, one of a later version, sealed and the passphrase is missing or another, or a value in it is
            not valid; the sentence says which, and what to do.
    """
    if len(content) > MOST_BYTES:
        raise JoinFileError(f"more than {MOST_BYTES:,} bytes are no join file")
    if not is_sealed(content):
        return _read(content, JoinFile)
    seal = _read(content, _Sealed).sealed
    if passphrase is None:
        raise JoinFileError("it is sealed: give the passphrase that it was made with")
    try:
        salt, nonce, text = (
            base64.b64decode(part, validate=True) for part in (seal.salt, seal.nonce, seal.text)
        )
        plain = AESGCM(_key(passphrase, salt)).decrypt(nonce, text, _SEALED_AS)
    except (binascii.Error, ValueError):
        raise JoinFileError("its seal is damaged: copy the file again") from None
    except InvalidTag:
        raise JoinFileError("the passphrase does not open it (or the file was changed)") from None
    return _read(plain, JoinFile)


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode())


def _read(content: bytes, kind: type[T]) -> T:
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("fedge_join")
        if version is None:
            raise JoinFileError("it is no join file: `fedge device add` makes one")
        if version != 1:
            raise JoinFileError(
                f"it is of version {version!r:.20}, and this agent reads version 1: upgrade the agent, or make it with the fleet's"
            )
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise JoinFileError(f"it is not valid: {error}; make it anew with `fedge device add`") from None
    except UNREADABLE:
        raise JoinFileError("it is no join file: `fedge device add` makes one, in JSON") from None
