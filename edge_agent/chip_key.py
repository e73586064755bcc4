"""An identity key that never leaves its chip: P-256 in a PKCS#11 token (TPM 2.0 by tpm2-pkcs11, a secure element, SoftHSM).

It is one `protocol.identity.IdentityKey`: the public half is read once, and each signature is made by the token and checked
here before anybody sees it. Any thread may sign; one at a time does. A token that went away for a moment (a chip that was
reset, a daemon that restarted) is opened anew at the next signature, not given up. A PIN that was refused is not tried again until the file
has another: chips lock themselves after a few.

Not a key store: one key pair, found by its label, and nothing is ever deleted.

Source: PKCS #11 v2.40, CKM_ECDSA; python-pkcs11.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import (
    MultipleObjectsReturned,
    MultipleTokensReturned,
    NoSuchKey,
    NoSuchToken,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)

from edge_agent.errors import IdentityKeyError
from edge_agent.private_file import read_private
from edge_agent.settings import IdentitySettings

__all__ = ["ChipKey"]

T = TypeVar("T")

_P256: Final = bytes.fromhex("06082a8648ce3d030107")
"""The object identifier of secp256r1 (prime256v1), DER."""
_PIN_ERRORS: Final = (PinIncorrect, PinInvalid, PinLenRange, PinLocked)
_LOCK: Final = threading.Lock()
"""One for all: a library that is begun anew ends the sessions of every object in this process."""


class ChipKey:
    """`protocol.identity.IdentityKey` in a token; opened when it is needed first."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._settings = settings
        self._session: pkcs11.Session | None = None
        self._public: ec.EllipticCurvePublicKey | None = None
        self._refused_pin: bytes | None = None

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half; raises IdentityKeyError where the token cannot be asked."""
        with _LOCK:
            if self._public is None:
                self._public = self._ask(self._read_public)
            return self._public

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """A DER ECDSA signature over the SHA-256 of `data`; raises IdentityKeyError where the token gives none."""
        public, digest = self.public_key(), hashlib.sha256(data).digest()
        with _LOCK:
            raw = self._ask(lambda session: self._private(session).sign(digest, mechanism=Mechanism.ECDSA))
        half = len(raw) // 2
        signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
        try:
            public.verify(signature, data, signature_algorithm)
        except InvalidSignature:
            raise IdentityKeyError(
                f"{self._named}: its signature does not verify; are the private and the public key of this label one pair?"
            ) from None
        return signature

    def make_if_missing(self) -> None:
        """Make the key pair in the token where it has none of this label; raises IdentityKeyError."""
        with _LOCK:
            self._ask(self._find_or_make)

    @property
    def _named(self) -> str:
        return f"identity key {self._settings.key!r} in token {self._settings.token!r}"

    def _private(self, session: pkcs11.Session) -> Any:  # its stubs do not say what a key of an algorithm can
        return session.get_key(
            object_class=ObjectClass.PRIVATE_KEY, key_type=KeyType.EC, label=self._settings.key
        )

    def _read_public(self, session: pkcs11.Session) -> ec.EllipticCurvePublicKey:
        found = session.get_key(
            object_class=ObjectClass.PUBLIC_KEY, key_type=KeyType.EC, label=self._settings.key
        )
        curve, point = bytes(found[Attribute.EC_PARAMS]), bytes(found[Attribute.EC_POINT])
        # an OCTET STRING around it, as the standard says, or bare, as some chips do
        bare = point[2:] if len(point) == 67 else point
        if curve != _P256 or len(bare) != 65:
            raise IdentityKeyError(f"{self._named} is no P-256 key; make one under another label")
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bare)

    def _find_or_make(self, session: pkcs11.Session) -> None:
        try:
            self._private(session)
        except NoSuchKey:
            curve = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
            curve.generate_keypair(
                store=True,
                label=self._settings.key,
                id=hashlib.sha256(self._settings.key.encode()).digest()[:8],
                mechanism=Mechanism.EC_KEY_PAIR_GEN,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                # tpm2-pkcs11 takes no other word than its own for these
                public_template=dict.fromkeys((Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP), DEFAULT),
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )

    def _ask(self, use: Callable[[pkcs11.Session], T]) -> T:
        """Use the token, and once more from its beginning where it does not answer; the caller holds the lock."""
        try:
            try:
                return use(self._opened())
            except _PIN_ERRORS:
                raise
            except PKCS11Error:
                self._forget()
                # the library remembers which slots there were
                pkcs11.lib(str(self._settings.module)).reinitialize()
                return use(self._opened())
        except PKCS11Error as error:
            self._forget()
            raise IdentityKeyError(f"{self._named} cannot be used: {self._words(error)}") from error

    def _opened(self) -> pkcs11.Session:
        if self._session is None:
            pin = read_private(self._settings.pin_file)
            if pin is None or pin == self._refused_pin:
                what = "is missing" if pin is None else "holds the PIN that the token refused"
                raise IdentityKeyError(f"{self._named} cannot be used: {self._settings.pin_file} {what}")
            try:
                self._session = self._logged_in(self._token(), pin)
            except _PIN_ERRORS:
                self._refused_pin = pin
                raise
        return self._session

    def _logged_in(self, token: pkcs11.Token, pin: bytes) -> pkcs11.Session:
        try:
            return token.open(rw=True, user_pin=pin.decode("utf-8", "replace").strip())
        except UserAlreadyLoggedIn:  # by another of our objects: who is logged in is the process's
            return token.open(rw=True)

    def _token(self) -> pkcs11.Token:
        module = str(self._settings.module)
        try:
            library = pkcs11.lib(module)
        except (RuntimeError, OSError, AttributeError) as error:
            raise IdentityKeyError(
                f"{self._named} cannot be used: {module} is not a PKCS#11 library that can be loaded: {error}"
            ) from None
        return library.get_token(token_label=self._settings.token)

    def _forget(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(PKCS11Error):  # it is gone already, most likely
                session.close()

    def _words(self, error: PKCS11Error) -> str:
        match error:
            case NoSuchToken():
                return "there is no token of that label; is the chip there, and set up?"
            case NoSuchKey():
                return "the token holds no key of that label; `fedge-agent enrol` makes it"
            case MultipleObjectsReturned():
                return "the token holds several keys of that label; name one that is there once"
            case MultipleTokensReturned():
                return "several tokens have that label"
            case _ if isinstance(error, _PIN_ERRORS):
                return f"the token refuses the PIN of {self._settings.pin_file} ({type(error).__name__})"
            case _:
                return f"{type(error).__name__} {error}".strip()
