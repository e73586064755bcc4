"""Every function of ours that reads what another machine, a person or a file says: what it is fed from, and what it may raise.

A new one that is not here is found by `test_registry`. Samples are what our own writers write.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from mutations import Mutator, json_value
from trust_world import Keys, make_repository, next_list
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
from models.architecture import Architecture, initial_parameters
from models.bundles import GoldenVectors, bundle_files, read_bundle
from models.detection.prior import decode_prior
from models.drift.reference import fit_reference
from models.errors import ModelError
from models.recordings.csv import read_csv
from models.recordings.npz import read_table, read_tables
from protocol import identity, names, topics, trust_roles
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle, peek_manifest
from protocol.enrolment import CertificateQuestion, EnrolmentQuestion
from protocol.errors import ProtocolError
from protocol.flat_vectors import decode_vector
from protocol.invitations import check_invitation, sign_invitation
from protocol.manifest import FeatureSpec, Manifest, ThresholdSpec
from protocol.messages.commands import CommandResult
from protocol.messages.envelope import Event, decode, encode, read_identity
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState, TrainingInvitation
from protocol.questions import CurveQuestion, FitQuestion, decode_question, encode_question
from protocol.refusals import read_refusal
from protocol.sealed_events import check_seal, seal
from protocol.secure_sum import messages as sums
from protocol.secure_sum.errors import SecureSumError
from protocol.secure_sum.keys import check_public_key
from protocol.secure_sum.sealed_shares import open_shares
from protocol.signed_requests import RequestSigner, Step, decode_step, encode_step, read_request
from protocol.sum_terms import NoiseTerms, SumTerms, decode_terms, encode_terms
from protocol.wire_bounds import check_wire
from runtime.errors import FedgeError, SettingsError
from runtime.settings import load_settings
from service.addresses import split_endpoint
from service.durations import read_duration
from service.errors import InvalidBodyError, ServiceError
from service.json_bodies import read_json_body

__all__ = ["EXEMPT", "PARSERS", "Parser"]

GOLDEN: Final = Path(__file__).parents[1] / "protocol" / "golden"
KEY: Final = ec.derive_private_key(0xF022, ec.SECP256R1())
RELEASE_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED: Final = TrustedKeys([RELEASE_KEY.public_key()])
NOW: Final = 1_767_225_600.0


@dataclass(frozen=True, kw_only=True)
class Parser:
    """`call` reads bytes; `covers` are the functions that it reaches; `may_raise` is all that may come out of them."""

    name: str
    call: Callable[[bytes], object]
    covers: tuple[str, ...]
    samples: Sequence[bytes]
    may_raise: tuple[type[Exception], ...]
    own: tuple[Mutator, ...] = ()


EXEMPT: Final[Mapping[str, str]] = {
    "models.delegates.open_with_delegate": "native code; a release's models are first run in a child process with limits (the probe)",
    "models.learning_runtimes.open_learning_model": "as above",
    "models.litert.load_model": "as above",
    "models.seal.check_seal": "looks at the last 40 bytes and their SHA-256",
    "models.export.edge_tpu.check_edge_tpu": "reads what our own converter made",
    "models.export.edge_tpu_compiler.read_report": "as above",
    "models.drift.state_file.decode_state": "the device's own disk, under a CRC; tests/edge_agent damages it",
    "edge_agent.detector_file.decode_detector": "the device's own disk; tests/edge_agent damages it",
    "edge_agent.detector_file.read_context": "as above",
    "models.recordings.cells.split_line": "reached by read_csv",
    "models.recordings.cells.decoded": "reached by read_csv",
    "protocol.secure_sum.device_rules.check_sharers": "reads its bits with unpack_positions",
    "protocol.secure_sum.device_rules.check_survivors": "as above",
    "protocol.secure_sum.keys.key_pair_from_secret": "a secret of our own",
    "protocol.secure_sum.shamir.split": "splits a secret of our own",
    "fleet.api.commands.read_report": "an endpoint; a name that stands in a path",
    "fleet.api.trust.read_trust": "as above",
    "fleet.api.trust.read_list": "as above",
    "fleet.migrations.upgrade.open_storage": "the operator's own setting",
    "fleet.storage.base.open_database": "as above",
    "fleet.rollouts.states.check_follows": "states of our own",
}
"""Functions that look like parsers, and why they are not fed here."""


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


# ---------------------------------------------------------------- samples


def _release(changed: Mapping[str, bytes] | None = None) -> bytes:
    architecture = Architecture(kind="dense-autoencoder", layers=(4, 2, 4))
    rows = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    files = bundle_files(
        int8_model=b"model",
        training_model=b"a graph for " + architecture.layout_sha256.encode(),
        parameters=initial_parameters(architecture, 1),
        reference=fit_reference(rows, np.abs(rows).mean(axis=1)),
        golden=GoldenVectors(inputs=((0.0,) * 4,), outputs=((0,) * 4,)),
    ) | dict(changed or {})
    manifest = Manifest(
        family="motor",
        version=1,
        created_at=NOW,
        model=architecture.to_manifest(),
        features=FeatureSpec(kind="passthrough", names=("a", "b", "c", "d")),
        threshold=ThresholdSpec(score=1.0, quantile=0.999, margin=1.1, fitted_on=100),
        files=entries_for(files),
    )  # fmt: skip - one line of fields
    return pack_bundle(manifest, files, RELEASE_KEY)


def _signed_anew(content: bytes, chance: random.Random) -> bytes:
    """A stolen release key's: the manifest says something else, and the signature holds."""
    head = struct.Struct("<8sI")
    magic, length = head.unpack_from(content)
    body, rest = content[head.size : head.size + length], content[head.size + length :]
    changed = json_value(body, chance)
    identifier = rest[:32]
    signature = RELEASE_KEY.sign(b"fedge/bundle/v1\x00" + identifier + changed)
    return head.pack(magic, len(changed)) + changed + identifier + signature + rest[32 + 64 :]


def _event(data: Any) -> Event:
    return Event(source="press-1", boot_id="b1", boot_number=1, sequence=1, time=NOW, data=data)


def _invitation() -> bytes:
    told = TrainingInvitation(
        run_id="run-1",
        family="motor",
        base_release="motor/1",
        layout_sha256="a" * 64,
        flower_address="127.0.0.1:1",
        issued_at=NOW,
        expires_at=NOW + 60,
    )  # fmt: skip - one line of fields
    return encode(_event(sign_invitation(told, KEY)))


def _request() -> str:
    signer = RequestSigner(KEY, KEY.public_key(), clock=lambda: NOW)
    return signer.sign("POST", "/v1/fleet/pull-messages", b"")


def _csr() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "press-1")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(KEY, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def _npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)  # type: ignore[arg-type] # its stub knows one keyword only
    return made.getvalue()


def _npy(values: np.ndarray[Any, Any]) -> bytes:
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()


def _message_proto() -> bytes:
    made = MessageProto()
    made.metadata.run_id, made.metadata.message_id, made.metadata.src_node_id = 7, "m" * 20, 3
    made.content.SetInParent()
    return bytes(made.SerializeToString())


def _repository() -> tuple[dict[str, bytes], bytes]:
    # As of now: the fleet rehearses with real clients whether devices would follow.
    keys = Keys()
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder), keys)
        _, _, listed = next_list(repository, {"motor/1": b"a release"}, keys.families["motor"])
        newest = repository.published().snapshot.signed.version
        names_of_files = ("1.root.json", "timestamp.json", f"{newest}.snapshot.json", "1.targets.json")
        files = {name: repository.read(name) for name in names_of_files}
    return files, listed


FILES, LISTED = _repository()
ROOT: Final = FILES["1.root.json"]
TUF: Final = [*FILES.values(), LISTED]

AGENT_TOML: Final = b"""
state_dir = "state"
tenant = "demo"
family = "motor"
hardware = "rpi4"
labels = { site = "hall-1" }
[mqtt]
url = "mqtts://broker.example:8883"
[source]
kind = "replay"
path = "rows.npz"
row_every_s = 1.0
[detection]
commissioning_windows = 60
[privacy]
send_windows = false
"""
FLEET_TOML: Final = b"""
listen = "127.0.0.1:8443"
data_dir = "data"
tenant = "demo"
[mqtt]
url = "mqtts://broker.example:8883"
"""
NPZ: Final = _npz(rows=np.ones((5, 3), np.float32), feature_names=np.array(["a", "b", "c"]))
CSV: Final = b"time,a,b\n2026-01-01 00:00:00,1.5,2\n2026-01-01 00:00:01,-1e3,nan\n"
TERMS: Final = SumTerms(
    run_id="run-1",
    question="train.fit",
    round_number=1,
    devices=12,
    norm_limit=1.0,
    maximum_examples=100,
    noise=NoiseTerms(clip=1.0, noise_multiplier=1.0, maximum_dropouts=2, rotation_seed="0" * 32),
)  # fmt: skip - one line of fields
QUESTIONS: Final = [
    encode_question(FitQuestion(run_id="r", round_number=1, layout_sha256="a", profile_sha256="b")).encode(),
    encode_question(
        CurveQuestion(run_id="r", layout_sha256="a", profile_sha256="b", devices=3, squares=1.0, error=0.1)
    ).encode(),
]
SEALED: Final = encode(
    seal(
        _event(
            DesiredState(
                execution="r1",
                release="motor/1",
                counter=1,
                bundle_path="/v1/x",
                bundle_sha256="a" * 64,
                bundle_bytes=9,
            )
        ),
        KEY,
        tenant="demo",
        device="press-1",
        nonce="0" * 32,
    )
)
ENROLMENT: Final = msgspec.json.encode(
    EnrolmentQuestion(
        device="press-1",
        tenant="demo",
        family="motor",
        public_key=identity.public_key_pem(KEY.public_key()).decode(),
        certificate_request=_csr().decode(),
        hardware="rpi4",
        labels={"site": "hall-1"},
        signature="A" * 96,
    )  # fmt: skip - one line of fields
)
SUM_KINDS: Final = {
    "advertisement": sums.Advertisement,
    "announcement": sums.Announcement,
    "cohort": sums.CohortBook,
    "confirmation": sums.SurvivorConfirmation,
    "delivery": sums.ShareDelivery,
    "masked": sums.MaskedInput,
    "revealed": sums.RevealedShares,
    "sealed": sums.SealedShares,
    "survivors": sums.SurvivorList,
    "unmask": sums.UnmaskRequest,
}  # fmt: skip - a table


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


ENVELOPES: Final = [path.read_bytes() for path in sorted(GOLDEN.glob("*.v1.json"))]
TOKENS: Final = [identity.issue_token(KEY, "press-1", "fleet", NOW).encode()]
NAMES: Final = [
    b"press-1",
    b"motor/1",
    b"fedge/v1/demo/press-1/health",
    b"fedge/v1/demo/training/motor",
    b"models/motor/1.fedge",
    b"1.root.json",
]
PEMS: Final = [identity.public_key_pem(KEY.public_key()), identity.private_key_pem(KEY), _csr()]
RELEASE: Final = _release()

PROTOCOL: Final = (ProtocolError,)
PARSERS: Final[tuple[Parser, ...]] = (
    Parser(
        name="message",
        call=decode,
        covers=("protocol.messages.envelope.decode",),
        samples=ENVELOPES,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="message identity",
        call=read_identity,
        covers=("protocol.messages.envelope.read_identity",),
        samples=ENVELOPES,
        may_raise=(),
    ),
    Parser(
        name="sealed message",
        call=_checked_seal,
        covers=("protocol.sealed_events.check_seal",),
        samples=[SEALED],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="invitation",
        call=_checked_invitation,
        covers=("protocol.invitations.check_invitation",),
        samples=[_invitation()],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="bundle",
        call=_verified_bundle,
        covers=(
            "protocol.bundle.open_bundle",
            "protocol.manifest_text.check_manifest_text",
            "models.bundles.read_bundle",
        ),
        samples=[RELEASE],
        may_raise=(ProtocolError, ModelError),
        own=(_signed_anew,),
    ),
    Parser(
        name="bundle, champion",
        call=lambda c: read_champion(c, TRUSTED),
        covers=("aggregator.rounds.champion.read_champion",),
        samples=[RELEASE],
        may_raise=(AggregatorError,),
        own=(_signed_anew,),
    ),
    Parser(
        name="bundle, on a device",
        call=lambda c: verify(c, hashlib.sha256(c).hexdigest()),
        covers=("edge_agent.installation.verification.verify", "protocol.bundle.open_listed"),
        samples=[RELEASE],
        may_raise=(EdgeAgentError,),
        own=(_signed_anew,),
    ),
    Parser(
        name="manifest",
        call=peek_manifest,
        covers=("protocol.bundle.peek_manifest",),
        samples=[RELEASE],
        may_raise=PROTOCOL,
        own=(_signed_anew,),
    ),
    Parser(
        name="prior",
        call=decode_prior,
        covers=("models.detection.prior.decode_prior",),
        samples=[b'{"features":1,"devices":3}'],
        may_raise=(ModelError,),
    ),
    Parser(
        name="vector",
        call=decode_vector,
        covers=("protocol.flat_vectors.decode_vector",),
        samples=[_npy(np.ones(9, np.float32)), _npy(np.ones((3, 3)))],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="private key",
        call=identity.load_private_key,
        covers=("protocol.identity.load_private_key",),
        samples=PEMS,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="public key",
        call=identity.load_public_key,
        covers=("protocol.identity.load_public_key",),
        samples=PEMS,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="compressed key",
        call=_text(identity.key_from_compressed),
        covers=("protocol.identity.key_from_compressed",),
        samples=[identity.compressed_key(KEY.public_key()).encode()],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="token subject",
        call=_text(identity.token_subject),
        covers=("protocol.identity.token_subject",),
        samples=TOKENS,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="token",
        call=_text(lambda t: identity.verify_token(t, KEY.public_key(), "fleet", NOW)),
        covers=("protocol.identity.verify_token",),
        samples=TOKENS,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="signed request",
        call=_text(lambda t: read_request(t, "POST", "/").check(KEY.public_key())),
        covers=("protocol.signed_requests.read_request",),
        samples=[_request().encode()],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="step",
        call=decode_step,
        covers=("protocol.signed_requests.decode_step",),
        samples=[encode_step(Step(session="0" * 32, number=1, time=NOW))],
        may_raise=(),
    ),
    Parser(
        name="name",
        call=_text(lambda t: names.check_name(t, "name")),
        covers=("protocol.names.check_name",),
        samples=NAMES,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="release id",
        call=_text(names.split_release_id),
        covers=("protocol.names.split_release_id",),
        samples=NAMES,
        may_raise=PROTOCOL,
    ),
    Parser(name="target", call=_text(trust_roles.model_target), covers=(), samples=NAMES, may_raise=PROTOCOL),
    Parser(
        name="topic",
        call=_text(topics.parse_device_topic),
        covers=("protocol.topics.parse_device_topic",),
        samples=NAMES,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="question",
        call=_text(decode_question),
        covers=("protocol.questions.decode_question",),
        samples=QUESTIONS,
        may_raise=PROTOCOL,
    ),
    Parser(
        name="terms",
        call=_text(decode_terms),
        covers=("protocol.sum_terms.decode_terms",),
        samples=[encode_terms(TERMS).encode()],
        may_raise=PROTOCOL,
    ),
    Parser(
        name="refusal",
        call=_text(read_refusal),
        covers=("protocol.refusals.read_refusal",),
        samples=[b"refused: COHORT"],
        may_raise=(),
    ),
    Parser(
        name="secure sum",
        call=_every_sum,
        covers=("protocol.secure_sum.messages.decode",),
        samples=[bytes.fromhex((GOLDEN / "secure_sum" / f"{name}.v1.hex").read_text()) for name in SUM_KINDS],
        may_raise=(),
    ),
    Parser(
        name="positions",
        call=lambda c: sums.unpack_positions(c, 12),
        covers=(),
        samples=[sums.pack_positions([1, 5], 12)],
        may_raise=(SecureSumError,),
    ),
    Parser(
        name="key of a sum",
        call=check_public_key,
        covers=("protocol.secure_sum.keys.check_public_key",),
        samples=[bytes(range(32)), bytes(32)],
        may_raise=(SecureSumError,),
    ),
    Parser(
        name="shares",
        call=lambda c: open_shares(bytes(32), c, session="s", round_number=1, sender="a", recipient="b"),
        covers=("protocol.secure_sum.sealed_shares.open_shares",),
        samples=[bytes(100)],
        may_raise=(SecureSumError,),
    ),
    Parser(
        name="Flower message",
        call=_wire,
        covers=("protocol.wire_bounds.check_wire",),
        samples=[_message_proto()],
        may_raise=(ProtocolError, DecodeError),
    ),
    Parser(
        name="enrolment",
        call=_document(EnrolmentQuestion),
        covers=(),
        samples=[ENROLMENT],
        may_raise=(InvalidBodyError,),
    ),
    Parser(
        name="certificate wanted",
        call=_document(CertificateQuestion),
        covers=(),
        samples=[json.dumps({"certificate_request": _csr().decode()}).encode()],
        may_raise=(InvalidBodyError,),
    ),
    Parser(
        name="command's result",
        call=_document(CommandResult),
        covers=(),
        samples=[(GOLDEN / "result.v1.json").read_bytes()],
        may_raise=(InvalidBodyError,),
    ),
    Parser(
        name="plan",
        call=_document(RolloutPlan),
        covers=(),
        samples=[json.dumps(EXAMPLE_PLAN).encode()],
        may_raise=(InvalidBodyError,),
    ),
    Parser(
        name="certificate request",
        call=_text(lambda t: requested_key(t, "press-1")),
        covers=("fleet.certificate_requests.requested_key",),
        samples=[_csr()],
        may_raise=(FleetError,),
    ),
    Parser(
        name="device query",
        call=_text(device_query.device_filter),
        covers=("fleet.device_query.device_filter",),
        samples=[
            b"hardware=in=(rpi4,rpi5) and site!=lab",
            b"agent_state==blind or (sight=lt=0.5;missing==*)",
            b'"a b"=="\\""',
        ],
        may_raise=(FleetError,),
    ),
    Parser(
        name="cursor",
        call=_text(paging.decode_cursor),
        covers=("fleet.api.paging.decode_cursor",),
        samples=[paging.encode_cursor("press-1").encode()],
        may_raise=(FleetError,),
    ),
    Parser(
        name="row cursor",
        call=_text(paging.decode_row_cursor),
        covers=("fleet.api.paging.decode_row_cursor",),
        samples=[paging.encode_cursor(17).encode()],
        may_raise=(FleetError,),
    ),
    Parser(
        name="signed metadata",
        call=lambda c: read_metadata(c, Targets, "x"),
        covers=("fleet.trust.metadata.read_metadata",),
        samples=TUF,
        may_raise=(FleetError,),
    ),
    Parser(
        name="metadata name",
        call=_text(split_name),
        covers=("fleet.trust.published.split_name",),
        samples=NAMES,
        may_raise=(FedgeError,),
    ),
    Parser(
        name="root",
        call=update_trust_client.check_root,
        covers=("edge_agent.update_trust_client.check_root",),
        samples=TUF,
        may_raise=(EdgeAgentError,),
    ),
    Parser(
        name="repository",
        call=_believed,
        covers=("edge_agent.update_trust_client.believe",),
        samples=TUF,
        may_raise=(EdgeAgentError,),
    ),
    Parser(
        name="release list",
        call=lambda c: read_list(c, [RELEASE_KEY.public_key()]),
        covers=("aggregator.release_listing.read_list",),
        samples=TUF,
        may_raise=(AggregatorError,),
    ),
    Parser(
        name="NPZ",
        call=_in_file(".npz", lambda p: read_table(p, key="rows")),
        covers=(),
        samples=[NPZ],
        may_raise=(ModelError,),
    ),
    Parser(
        name="NPZ, all", call=_in_file(".npz", read_tables), covers=(), samples=[NPZ], may_raise=(ModelError,)
    ),
    Parser(
        name="CSV",
        call=_in_file(".csv", read_csv),
        covers=(),
        samples=[CSV, CSV.replace(b",", b";")],
        may_raise=(ModelError,),
    ),
    Parser(
        name="agent.toml",
        call=_in_file(".toml", lambda p: load_settings(p, AgentSettings, prefix="X_", environment={})),
        covers=(),
        samples=[AGENT_TOML],
        may_raise=(SettingsError,),
    ),
    Parser(
        name="fleet.toml",
        call=_in_file(".toml", lambda p: load_settings(p, FleetSettings, prefix="X_", environment={})),
        covers=(),
        samples=[FLEET_TOML],
        may_raise=(SettingsError,),
    ),
    Parser(
        name="address",
        call=_text(split_endpoint),
        covers=("service.addresses.split_endpoint",),
        samples=[b"127.0.0.1:8443", b"[::1]:1"],
        may_raise=(ValueError,),
    ),
    Parser(
        name="duration",
        call=_text(read_duration),
        covers=("service.durations.read_duration",),
        samples=[b"90d", b"24h"],
        may_raise=(ServiceError,),
    ),
)
"""Each of them."""
