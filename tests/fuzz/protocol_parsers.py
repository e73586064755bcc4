"""What reads bytes of the protocol: messages, bundles, keys and tokens, names, and the messages of a secure sum."""

from __future__ import annotations

from typing import Final

import numpy as np
from fed_parser import Parser, fed, text
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from samples import (
    ENVELOPES,
    GOLDEN,
    JOIN_FILES,
    KEY,
    NAMES,
    NOW,
    PEMS,
    QUESTIONS,
    RELEASE,
    SEALED,
    SUM_KINDS,
    TERMS,
    TOKENS,
    TRUSTED,
    invitation,
    message_proto,
    npy,
    request,
    signed_anew,
)

from aggregator.flower.flower_internals import MessageProto
from models.bundles import read_bundle
from models.errors import ModelError
from protocol import identity, names, topics, trust_roles
from protocol.bundle import open_bundle, peek_manifest
from protocol.errors import ProtocolError
from protocol.flat_vectors import decode_vector
from protocol.invitations import check_invitation
from protocol.join_file import open_join_file
from protocol.messages.envelope import decode, read_identity
from protocol.messages.kinds import Kind
from protocol.messages.payloads import TrainingInvitation
from protocol.questions import decode_question
from protocol.refusals import read_refusal
from protocol.sealed_events import check_seal
from protocol.secure_sum import messages as sums
from protocol.secure_sum.errors import SecureSumError
from protocol.secure_sum.keys import check_public_key
from protocol.secure_sum.sealed_shares import open_shares
from protocol.signed_requests import Step, decode_step, encode_step, read_request
from protocol.sum_terms import decode_terms, encode_terms
from protocol.wire_bounds import check_wire

__all__ = ["PROTOCOL_PARSERS"]


def _checked_invitation(content: bytes) -> object:
    event = decode(content, Kind.TRAINING)
    assert isinstance(event.data, TrainingInvitation)
    return check_invitation(event.data, [KEY.public_key()], family="motor", host=None, now_s=NOW)


def _checked_seal(content: bytes) -> object:
    return check_seal(decode(content), [KEY.public_key()], tenant="demo", device="press-1", now_s=NOW)


def _verified_bundle(content: bytes) -> object:
    return read_bundle(open_bundle(content, TRUSTED))


def _wire(content: bytes) -> object:
    check_wire(content, MessageProto)
    return MessageProto.FromString(content)


def _every_sum(content: bytes) -> None:
    for kind in SUM_KINDS.values():
        try:
            sums.decode(content, kind)
        except SecureSumError:
            continue


PROTOCOL: Final = (ProtocolError,)
PROTOCOL_PARSERS: Final[tuple[Parser, ...]] = (
    fed("message", decode, ENVELOPES, PROTOCOL, "protocol.messages.envelope.decode"),
    fed("message identity", read_identity, ENVELOPES, (), "protocol.messages.envelope.read_identity"),
    fed("sealed message", _checked_seal, [SEALED], PROTOCOL, "protocol.sealed_events.check_seal"),
    fed("invitation", _checked_invitation, [invitation()], PROTOCOL, "protocol.invitations.check_invitation"),
    fed(
        "join file",
        lambda content: open_join_file(content, "a passphrase of many words"),
        JOIN_FILES,
        PROTOCOL,
        "protocol.join_file.open_join_file",
    ),
    fed(
        "bundle",
        _verified_bundle,
        [RELEASE],
        (ProtocolError, ModelError),
        "protocol.bundle.open_bundle",
        "protocol.manifest_text.check_manifest_text",
        "models.bundles.read_bundle",
        own=(signed_anew,),
    ),
    fed("manifest", peek_manifest, [RELEASE], PROTOCOL, "protocol.bundle.peek_manifest", own=(signed_anew,)),
    fed(
        "vector",
        decode_vector,
        [npy(np.ones(9, np.float32)), npy(np.ones((3, 3)))],
        PROTOCOL,
        "protocol.flat_vectors.decode_vector",
    ),
    fed("private key", identity.load_private_key, PEMS, PROTOCOL, "protocol.identity.load_private_key"),
    fed("public key", identity.load_public_key, PEMS, PROTOCOL, "protocol.identity.load_public_key"),
    fed(
        "compressed key",
        text(identity.key_from_compressed),
        [identity.compressed_key(KEY.public_key()).encode()],
        PROTOCOL,
        "protocol.identity.key_from_compressed",
    ),
    fed("token subject", text(identity.token_subject), TOKENS, PROTOCOL, "protocol.identity.token_subject"),
    fed(
        "token",
        text(lambda t: identity.verify_token(t, KEY.public_key(), "fleet", NOW)),
        TOKENS,
        PROTOCOL,
        "protocol.identity.verify_token",
    ),
    fed(
        "signed request",
        text(lambda t: read_request(t, "POST", "/").check(KEY.public_key())),
        [request().encode()],
        PROTOCOL,
        "protocol.signed_requests.read_request",
    ),
    fed(
        "step",
        decode_step,
        [encode_step(Step(session="0" * 32, number=1, time=NOW))],
        (),
        "protocol.signed_requests.decode_step",
    ),
    fed("name", text(lambda t: names.check_name(t, "name")), NAMES, PROTOCOL, "protocol.names.check_name"),
    fed("release id", text(names.split_release_id), NAMES, PROTOCOL, "protocol.names.split_release_id"),
    fed("target", text(trust_roles.model_target), NAMES, PROTOCOL),
    fed("topic", text(topics.parse_device_topic), NAMES, PROTOCOL, "protocol.topics.parse_device_topic"),
    fed("question", text(decode_question), QUESTIONS, PROTOCOL, "protocol.questions.decode_question"),
    fed(
        "terms",
        text(decode_terms),
        [encode_terms(TERMS).encode()],
        PROTOCOL,
        "protocol.sum_terms.decode_terms",
    ),
    fed("refusal", text(read_refusal), [b"refused: COHORT"], (), "protocol.refusals.read_refusal"),
    fed(
        "secure sum",
        _every_sum,
        [bytes.fromhex((GOLDEN / "secure_sum" / f"{name}.v1.hex").read_text()) for name in SUM_KINDS],
        (),
        "protocol.secure_sum.messages.decode",
    ),
    fed(
        "positions",
        lambda c: sums.unpack_positions(c, 12),
        [sums.pack_positions([1, 5], 12)],
        (SecureSumError,),
    ),
    fed(
        "key of a sum",
        check_public_key,
        [bytes(range(32)), bytes(32)],
        (SecureSumError,),
        "protocol.secure_sum.keys.check_public_key",
    ),
    fed(
        "shares",
        lambda c: open_shares(bytes(32), c, session="s", round_number=1, sender="a", recipient="b"),
        [bytes(100)],
        (SecureSumError,),
        "protocol.secure_sum.sealed_shares.open_shares",
    ),
    fed(
        "Flower message",
        _wire,
        [message_proto()],
        (ProtocolError, DecodeError),
        "protocol.wire_bounds.check_wire",
    ),
)
