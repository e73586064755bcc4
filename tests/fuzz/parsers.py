"""Every function of ours that reads what another machine, a person or a file says: what it is fed from, and what it may raise.

A new one that is not here is found by `test_registry`. Samples are what our own writers write.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from mutations import Mutator
from samples import (
    AGENT_TOML,
    CSV,
    ENROLMENT,
    ENVELOPES,
    FILES,
    FLEET_TOML,
    GOLDEN,
    KEY,
    NAMES,
    NOW,
    NPZ,
    PEMS,
    QUESTIONS,
    RELEASE,
    RELEASE_KEY,
    ROOT,
    SEALED,
    SUM_KINDS,
    TERMS,
    TOKENS,
    TRUSTED,
    TUF,
    csr,
    invitation,
    message_proto,
    npy,
    request,
    signed_anew,
)
from tuf.api.metadata import Targets

from aggregator.errors import AggregatorError
from aggregator.flower.flower_internals import MessageProto
from aggregator.release_listing import read_list
from aggregator.rounds.champion import read_champion
from edge_agent import update_trust_client
from edge_agent.errors import EdgeAgentError
from edge_agent.installation.verification import verify
from edge_agent.settings import Settings as AgentSettings
from fleet import device_query
from fleet.api import paging
from fleet.certificate_requests import requested_key
from fleet.errors import FleetError
from fleet.rollouts.plans import EXAMPLE_PLAN, RolloutPlan
from fleet.settings import Settings as FleetSettings
from fleet.trust.metadata import read_metadata
from fleet.trust.published import split_name
from models.bundles import read_bundle
from models.detection.prior import decode_prior
from models.errors import ModelError
from models.recordings.csv import read_csv
from models.recordings.npz import read_table, read_tables
from protocol import identity, names, topics, trust_roles
from protocol.bundle import open_bundle, peek_manifest
from protocol.enrolment import CertificateQuestion, EnrolmentQuestion
from protocol.errors import ProtocolError
from protocol.flat_vectors import decode_vector
from protocol.invitations import check_invitation
from protocol.messages.commands import CommandResult
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
from runtime.errors import FedgeError, SettingsError
from runtime.settings import load_settings
from service.addresses import split_endpoint
from service.durations import read_duration
from service.errors import InvalidBodyError, ServiceError
from service.json_bodies import read_json_body

__all__ = ["PARSERS", "Parser"]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """`call` reads bytes; `covers` are the functions that it reaches; `may_raise` is all that may come out of them."""

    name: str
    call: Callable[[bytes], object]
    covers: tuple[str, ...]
    samples: Sequence[bytes]
    may_raise: tuple[type[Exception], ...]
    own: tuple[Mutator, ...] = ()


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode("utf-8", "replace"))


def _document(kind: type[msgspec.Struct]) -> Callable[[bytes], object]:
    """As `service.json_bodies` has it: JSON is read by the framework, the rest is ours."""

    def read(content: bytes) -> object:
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return None  # told by the framework: 400 or 422
        return read_json_body(document, kind) if isinstance(document, dict) else None

    return read


def _in_file(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def call(content: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(content)
            return read(path)

    return call


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


def _believed(content: bytes) -> object:
    """A repository of which one file is the one that came."""
    return update_trust_client.believe(
        ROOT,
        "motor",
        lambda name, most: content[:most] if name == "timestamp.json" else FILES.get(name),
        now_s=time.time(),
    )


def _every_sum(content: bytes) -> None:
    for kind in SUM_KINDS.values():
        try:
            sums.decode(content, kind)
        except SecureSumError:
            continue


def _fed(
    name: str,
    call: Callable[[bytes], object],
    samples: Sequence[bytes],
    may_raise: tuple[type[Exception], ...],
    *covers: str,
    own: tuple[Mutator, ...] = (),
) -> Parser:
    return Parser(name=name, call=call, covers=covers, samples=samples, may_raise=may_raise, own=own)


PROTOCOL: Final = (ProtocolError,)
PARSERS: Final[tuple[Parser, ...]] = (
    _fed("message", decode, ENVELOPES, PROTOCOL, "protocol.messages.envelope.decode"),
    _fed("message identity", read_identity, ENVELOPES, (), "protocol.messages.envelope.read_identity"),
    _fed("sealed message", _checked_seal, [SEALED], PROTOCOL, "protocol.sealed_events.check_seal"),
    _fed(
        "invitation", _checked_invitation, [invitation()], PROTOCOL, "protocol.invitations.check_invitation"
    ),
    _fed(
        "bundle",
        _verified_bundle,
        [RELEASE],
        (ProtocolError, ModelError),
        "protocol.bundle.open_bundle",
        "protocol.manifest_text.check_manifest_text",
        "models.bundles.read_bundle",
        own=(signed_anew,),
    ),
    _fed(
        "bundle, champion",
        lambda c: read_champion(c, TRUSTED),
        [RELEASE],
        (AggregatorError,),
        "aggregator.rounds.champion.read_champion",
        own=(signed_anew,),
    ),
    _fed(
        "bundle, on a device",
        lambda c: verify(c, hashlib.sha256(c).hexdigest()),
        [RELEASE],
        (EdgeAgentError,),
        "edge_agent.installation.verification.verify",
        "protocol.bundle.open_listed",
        own=(signed_anew,),
    ),
    _fed("manifest", peek_manifest, [RELEASE], PROTOCOL, "protocol.bundle.peek_manifest", own=(signed_anew,)),
    _fed(
        "prior",
        decode_prior,
        [b'{"features":1,"devices":3}'],
        (ModelError,),
        "models.detection.prior.decode_prior",
    ),
    _fed(
        "vector",
        decode_vector,
        [npy(np.ones(9, np.float32)), npy(np.ones((3, 3)))],
        PROTOCOL,
        "protocol.flat_vectors.decode_vector",
    ),
    _fed("private key", identity.load_private_key, PEMS, PROTOCOL, "protocol.identity.load_private_key"),
    _fed("public key", identity.load_public_key, PEMS, PROTOCOL, "protocol.identity.load_public_key"),
    _fed(
        "compressed key",
        _text(identity.key_from_compressed),
        [identity.compressed_key(KEY.public_key()).encode()],
        PROTOCOL,
        "protocol.identity.key_from_compressed",
    ),
    _fed("token subject", _text(identity.token_subject), TOKENS, PROTOCOL, "protocol.identity.token_subject"),
    _fed(
        "token",
        _text(lambda t: identity.verify_token(t, KEY.public_key(), "fleet", NOW)),
        TOKENS,
        PROTOCOL,
        "protocol.identity.verify_token",
    ),
    _fed(
        "signed request",
        _text(lambda t: read_request(t, "POST", "/").check(KEY.public_key())),
        [request().encode()],
        PROTOCOL,
        "protocol.signed_requests.read_request",
    ),
    _fed(
        "step",
        decode_step,
        [encode_step(Step(session="0" * 32, number=1, time=NOW))],
        (),
        "protocol.signed_requests.decode_step",
    ),
    _fed("name", _text(lambda t: names.check_name(t, "name")), NAMES, PROTOCOL, "protocol.names.check_name"),
    _fed("release id", _text(names.split_release_id), NAMES, PROTOCOL, "protocol.names.split_release_id"),
    _fed("target", _text(trust_roles.model_target), NAMES, PROTOCOL),
    _fed("topic", _text(topics.parse_device_topic), NAMES, PROTOCOL, "protocol.topics.parse_device_topic"),
    _fed("question", _text(decode_question), QUESTIONS, PROTOCOL, "protocol.questions.decode_question"),
    _fed(
        "terms",
        _text(decode_terms),
        [encode_terms(TERMS).encode()],
        PROTOCOL,
        "protocol.sum_terms.decode_terms",
    ),
    _fed("refusal", _text(read_refusal), [b"refused: COHORT"], (), "protocol.refusals.read_refusal"),
    _fed(
        "secure sum",
        _every_sum,
        [bytes.fromhex((GOLDEN / "secure_sum" / f"{name}.v1.hex").read_text()) for name in SUM_KINDS],
        (),
        "protocol.secure_sum.messages.decode",
    ),
    _fed(
        "positions",
        lambda c: sums.unpack_positions(c, 12),
        [sums.pack_positions([1, 5], 12)],
        (SecureSumError,),
    ),
    _fed(
        "key of a sum",
        check_public_key,
        [bytes(range(32)), bytes(32)],
        (SecureSumError,),
        "protocol.secure_sum.keys.check_public_key",
    ),
    _fed(
        "shares",
        lambda c: open_shares(bytes(32), c, session="s", round_number=1, sender="a", recipient="b"),
        [bytes(100)],
        (SecureSumError,),
        "protocol.secure_sum.sealed_shares.open_shares",
    ),
    _fed(
        "Flower message",
        _wire,
        [message_proto()],
        (ProtocolError, DecodeError),
        "protocol.wire_bounds.check_wire",
    ),
    _fed("enrolment", _document(EnrolmentQuestion), [ENROLMENT], (InvalidBodyError,)),
    _fed(
        "certificate wanted",
        _document(CertificateQuestion),
        [json.dumps({"certificate_request": csr().decode(), "signature": "c2lnbmVk"}).encode()],
        (InvalidBodyError,),
    ),
    _fed(
        "command's result",
        _document(CommandResult),
        [(GOLDEN / "result.v1.json").read_bytes()],
        (InvalidBodyError,),
    ),
    _fed("plan", _document(RolloutPlan), [json.dumps(EXAMPLE_PLAN).encode()], (InvalidBodyError,)),
    _fed(
        "certificate request",
        _text(lambda t: requested_key(t, "press-1")),
        [csr()],
        (FleetError,),
        "fleet.certificate_requests.requested_key",
    ),
    _fed(
        "device query",
        _text(device_query.device_filter),
        [
            b"hardware=in=(rpi4,rpi5) and site!=lab",
            b"agent_state==blind or (sight=lt=0.5;missing==*)",
            b'"a b"=="\\""',
        ],
        (FleetError,),
        "fleet.device_query.device_filter",
    ),
    _fed(
        "cursor",
        _text(paging.decode_cursor),
        [paging.encode_cursor("press-1").encode()],
        (FleetError,),
        "fleet.api.paging.decode_cursor",
    ),
    _fed(
        "row cursor",
        _text(paging.decode_row_cursor),
        [paging.encode_cursor(17).encode()],
        (FleetError,),
        "fleet.api.paging.decode_row_cursor",
    ),
    _fed(
        "signed metadata",
        lambda c: read_metadata(c, Targets, "x"),
        TUF,
        (FleetError,),
        "fleet.trust.metadata.read_metadata",
    ),
    _fed("metadata name", _text(split_name), NAMES, (FedgeError,), "fleet.trust.published.split_name"),
    _fed(
        "root",
        update_trust_client.check_root,
        TUF,
        (EdgeAgentError,),
        "edge_agent.update_trust_client.check_root",
    ),
    _fed("repository", _believed, TUF, (EdgeAgentError,), "edge_agent.update_trust_client.believe"),
    _fed(
        "release list",
        lambda c: read_list(c, [RELEASE_KEY.public_key()]),
        TUF,
        (AggregatorError,),
        "aggregator.release_listing.read_list",
    ),
    _fed("NPZ", _in_file(".npz", lambda p: read_table(p, key="rows")), [NPZ], (ModelError,)),
    _fed("NPZ, all", _in_file(".npz", read_tables), [NPZ], (ModelError,)),
    _fed("CSV", _in_file(".csv", read_csv), [CSV, CSV.replace(b",", b";")], (ModelError,)),
    _fed(
        "agent.toml",
        _in_file(".toml", lambda p: load_settings(p, AgentSettings, prefix="X_", environment={})),
        [AGENT_TOML],
        (SettingsError,),
    ),
    _fed(
        "fleet.toml",
        _in_file(".toml", lambda p: load_settings(p, FleetSettings, prefix="X_", environment={})),
        [FLEET_TOML],
        (SettingsError,),
    ),
    _fed(
        "address",
        _text(split_endpoint),
        [b"127.0.0.1:8443", b"[::1]:1"],
        (ValueError,),
        "service.addresses.split_endpoint",
    ),
    _fed(
        "duration", _text(read_duration), [b"90d", b"24h"], (ServiceError,), "service.durations.read_duration"
    ),
)
"""Each of them."""
