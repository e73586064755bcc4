"""What our own writers write, in each format that is read from outside; and a change that only who holds a key can make."""

from __future__ import annotations

import io
import random
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from mutations import json_value
from trust_world import Keys, make_repository, next_list

from aggregator.flower.flower_internals import MessageProto
from models.architecture import Architecture, initial_parameters
from models.bundles import GoldenVectors, bundle_files
from models.drift.reference import fit_reference
from protocol import identity
from protocol.bundle import TrustedKeys, entries_for, pack_bundle
from protocol.enrolment import EnrolmentQuestion
from protocol.invitations import sign_invitation
from protocol.manifest import FeatureSpec, Manifest, ThresholdSpec
from protocol.messages.envelope import Event, encode
from protocol.messages.payloads import DesiredState, TrainingInvitation
from protocol.questions import CurveQuestion, FitQuestion, encode_question
from protocol.sealed_events import seal
from protocol.secure_sum import messages as sums
from protocol.signed_requests import RequestSigner
from protocol.sum_terms import NoiseTerms, SumTerms

__all__ = [
    "AGENT_TOML",
    "CSV",
    "ENROLMENT",
    "ENVELOPES",
    "FILES",
    "FLEET_TOML",
    "GOLDEN",
    "JOIN_FILES",
    "KEY",
    "LISTED",
    "NAMES",
    "NOW",
    "NPZ",
    "PEMS",
    "QUESTIONS",
    "RELEASE",
    "RELEASE_KEY",
    "ROOT",
    "SEALED",
    "SUM_KINDS",
    "TERMS",
    "TOKENS",
    "TRUSTED",
    "TUF",
    "csr",
    "event",
    "invitation",
    "message_proto",
    "npy",
    "npz",
    "release",
    "repository",
    "request",
    "signed_anew",
]

GOLDEN: Final = Path(__file__).parents[1] / "protocol" / "golden"
KEY: Final = ec.derive_private_key(0xF022, ec.SECP256R1())
RELEASE_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED: Final = TrustedKeys([RELEASE_KEY.public_key()])
NOW: Final = 1_767_225_600.0


def release(changed: Mapping[str, bytes] | None = None) -> bytes:
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


def signed_anew(content: bytes, chance: random.Random) -> bytes:
    """A stolen release key's: the manifest says something else, and the signature holds."""
    head = struct.Struct("<8sI")
    magic, length = head.unpack_from(content)
    body, rest = content[head.size : head.size + length], content[head.size + length :]
    changed = json_value(body, chance)
    identifier = rest[:32]
    signature = RELEASE_KEY.sign(b"fedge/bundle/v1\x00" + identifier + changed)
    return head.pack(magic, len(changed)) + changed + identifier + signature + rest[32 + 64 :]


def event(data: Any) -> Event:
    return Event(source="press-1", boot_id="b1", boot_number=1, sequence=1, time=NOW, data=data)


def invitation() -> bytes:
    told = TrainingInvitation(
        run_id="run-1",
        family="motor",
        base_release="motor/1",
        layout_sha256="a" * 64,
        flower_address="127.0.0.1:1",
        issued_at=NOW,
        expires_at=NOW + 60,
    )  # fmt: skip - one line of fields
    return encode(event(sign_invitation(told, KEY)))


def request() -> str:
    signer = RequestSigner(KEY, KEY.public_key(), clock=lambda: NOW)
    return signer.sign("POST", "/v1/fleet/pull-messages", b"")


def csr() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "press-1")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(KEY, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)  # type: ignore[arg-type] # its stub knows one keyword only
    return made.getvalue()


def npy(values: np.ndarray[Any, Any]) -> bytes:
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()


def message_proto() -> bytes:
    made = MessageProto()
    made.metadata.run_id, made.metadata.message_id, made.metadata.src_node_id = 7, "m" * 20, 3
    made.content.SetInParent()
    return bytes(made.SerializeToString())


def repository() -> tuple[dict[str, bytes], bytes]:
    # As of now: the fleet rehearses with real clients whether devices would follow.
    keys = Keys()
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder), keys)
        _, _, listed = next_list(repository, {"motor/1": b"a release"}, keys.families["motor"])
        newest = repository.published().snapshot.signed.version
        names_of_files = ("1.root.json", "timestamp.json", f"{newest}.snapshot.json", "1.targets.json")
        files = {name: repository.read(name) for name in names_of_files}
    return files, listed


FILES, LISTED = repository()
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
NPZ: Final = npz(rows=np.ones((5, 3), np.float32), feature_names=np.array(["a", "b", "c"]))
CSV: Final = b"time,a,b\n2026-01-01 00:00:00,1.5,2\n2026-01-01 00:00:01,-1e3,nan\n"
LONG: Final = b"id;tag;when;value\n" + b"".join(
    b"p%d;%s;0%d.02.2026 10:00;%d,5\n" % (k % 2, tag, k, k) for k in range(1, 9) for tag in (b"temp", b"flow")
)
JSON_LINES: Final = b"".join(
    b'{"ts": %d, "a": {"b": %d.5}, "ok": true}\n' % (1_770_000_000 + k, k) for k in range(6)
)
LABVIEW: Final = (
    b"LabVIEW Measurement\nSeparator\tTab\nX_Columns\tNo\n***End_of_Header***\n\nChannels\t1\nSamples\t4\n"
    b"X_Dimension\tTime\nX0\t0.0E+0\nDelta_X\t0.01\n***End_of_Header***\nX_Value\tforce\tComment\n"
    b"\t1.5\n\t2.5\tstarted\n\t3.5\n\t4.5\n"
)
ANNOTATED: Final = (
    b"#datatype,string,long,dateTime:RFC3339,double,string\n,result,table,_time,_value,_field\n"
    + b"".join(b",,%d,2026-02-10T08:30:0%dZ,%d.5,f%d\n" % (k % 2, k // 2, k, k % 2) for k in range(10))
)
WAV: Final = (
    b"RIFF\x34\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\x10\0\0\0"
    + bytes(range(16))
)
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
        event(
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
        certificate_request=csr().decode(),
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


ENVELOPES: Final = [path.read_bytes() for path in sorted(GOLDEN.glob("*.v1.json"))]
TOKENS: Final = [identity.issue_token(KEY, "press-1", "fleet", NOW).encode()]
JOIN_FILES: Final = [(GOLDEN / name).read_bytes() for name in ("join.v1.json", "join.sealed.v1.json")]
NAMES: Final = [
    b"press-1",
    b"motor/1",
    b"fedge/v1/demo/press-1/health",
    b"fedge/v1/demo/training/motor",
    b"models/motor/1.fedge",
    b"1.root.json",
]
PEMS: Final = [identity.public_key_pem(KEY.public_key()), identity.private_key_pem(KEY), csr()]
RELEASE: Final = release()
