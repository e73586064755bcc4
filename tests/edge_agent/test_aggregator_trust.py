"""Whose invitations a device follows: every way to send it elsewhere, and what an owner who has not pinned a key is told."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.aggregator_trust import AggregatorTrust, distrust
from edge_agent.settings import Settings, load_agent_settings
from protocol.errors import InvitationError
from protocol.identity import public_key_pem, sign_statement
from protocol.invitations import sign_invitation
from protocol.messages.payloads import TrainingInvitation
from runtime.errors import SettingsError

pytestmark = pytest.mark.edge
KEY, OTHER, NEXT = (ec.derive_private_key(number, ec.SECP256R1()) for number in (11, 12, 13))
INVITATION = TrainingInvitation(
    run_id="run-1",
    family="pump",
    base_release="pump/1",
    layout_sha256="a" * 64,
    flower_address="aggregator.example:9092",
    issued_at=0.0,
    expires_at=1000.0,
)
PINNED = 'aggregator_key = "now.pem"\nhost = "aggregator.example"\n'


def settings(folder: Path, flower: str = PINNED) -> Settings:
    for name, key in (("now.pem", KEY), ("next.pem", NEXT)):
        (folder / name).write_bytes(public_key_pem(key.public_key()))
    (folder / "none.pem").write_text("no key")
    table = f'[flower]\nca_file = "ca.pem"\n{flower}' if flower else ""
    (folder / "agent.toml").write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n[trust]\nroot = "r"\n'
        f'{table}[source]\nkind = "simulated"\n'
    )
    return load_agent_settings(folder / "agent.toml", {})


def test_an_invitation_of_the_pinned_aggregator_is_followed(tmp_path: Path) -> None:
    trust = AggregatorTrust(settings(tmp_path))
    signer = trust.signer(sign_invitation(INVITATION, KEY), 999.9)
    assert public_key_pem(signer) == public_key_pem(KEY.public_key())


CHANGES = {
    "run_id": "run-2",
    "family": "fan",
    "base_release": "pump/2",
    "layout_sha256": "b" * 64,
    "flower_address": "evil.example:9092",
    "issued_at": 1.0,
    "expires_at": 9e9,
    "minimum_windows": 1,
    "spread_s": 9e9,
}


def test_every_word_of_an_invitation_is_listed_above() -> None:
    assert CHANGES.keys() == set(TrainingInvitation.__struct_fields__) - {"signature"}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_an_invitation_that_was_changed_on_the_broker_is_not_followed(tmp_path: Path, name: str) -> None:
    changed = msgspec.structs.replace(sign_invitation(INVITATION, KEY), **{name: CHANGES[name]})
    with pytest.raises(InvitationError, match="not signed by the aggregator"):
        AggregatorTrust(settings(tmp_path)).signer(changed, 0.0)


@pytest.mark.parametrize(
    ("invitation", "words"),
    [
        (INVITATION, "not signed"),
        (sign_invitation(INVITATION, OTHER), "not signed"),
        (msgspec.structs.replace(INVITATION, signature="%%%"), "not signed"),
        (sign_invitation(msgspec.structs.replace(INVITATION, family="fan"), KEY), "family 'fan'"),
        (sign_invitation(msgspec.structs.replace(INVITATION, expires_at=500.0), KEY), "expired"),
        *(
            (sign_invitation(msgspec.structs.replace(INVITATION, flower_address=address), KEY), words)
            for address, words in (
                ("elsewhere.example:9092", "flower.host allows"),
                ("aggregator.example.evil:9092", "flower.host allows"),
                ("127.0.0.1:9092", "flower.host allows"),
                ("aggregator.example", "not host:port"),
                ("aggregator.example:0", "not host:port"),
                ("aggregator.example:99999", "not host:port"),
                ("user@aggregator.example:9092", "not host:port"),
                ("aggregator.example:9092/../x", "not host:port"),
                ("aggregator.example:9092\nx", "not host:port"),
            )
        ),
    ],
)
def test_an_invitation_that_is_forged_for_others_over_or_leads_elsewhere_is_not_followed(
    tmp_path: Path, invitation: TrainingInvitation, words: str
) -> None:
    with pytest.raises(InvitationError, match=words):
        AggregatorTrust(settings(tmp_path)).signer(invitation, 500.0)


def test_a_signature_of_the_same_key_for_another_purpose_is_none(tmp_path: Path) -> None:
    signature = sign_statement(KEY, "flower-answer/v1", msgspec.json.encode(INVITATION))
    borrowed = msgspec.structs.replace(INVITATION, signature=base64.b64encode(signature).decode())
    with pytest.raises(InvitationError, match="not signed"):
        AggregatorTrust(settings(tmp_path)).signer(borrowed, 0.0)


def test_two_keys_are_followed_while_one_takes_the_others_place_and_requests_go_to_the_signer(
    tmp_path: Path,
) -> None:
    trust = AggregatorTrust(settings(tmp_path, 'aggregator_key = ["now.pem", "next.pem"]\n'))
    for key in (KEY, NEXT):
        assert public_key_pem(trust.signer(sign_invitation(INVITATION, key), 0.0)) == public_key_pem(
            key.public_key()
        )
    with pytest.raises(InvitationError, match="not signed"):
        trust.signer(sign_invitation(INVITATION, OTHER), 0.0)


@pytest.mark.parametrize(
    ("flower", "words"),
    [
        ("", "no [flower] table"),
        ("host = 'x'\n", "run `fedge-aggregator identity` where the aggregator runs"),
        ('aggregator_key = "missing.pem"\n', "missing.pem cannot be used: No such file"),
        ('aggregator_key = ["now.pem", "none.pem"]\n', "none.pem cannot be used: not a PEM public key"),
    ],
)
def test_without_a_usable_key_the_owner_is_told_what_to_do_and_the_agent_goes_on(
    tmp_path: Path, flower: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = settings(tmp_path, flower)
    with pytest.raises(SettingsError) as refused:
        AggregatorTrust(found)
    assert words in str(refused.value)
    reason = distrust(found)(sign_invitation(INVITATION, KEY), 0.0)
    assert words in (reason or "")
    assert ("training_is_off" in caplog.text) == bool(flower)
    assert found.can_train == ("aggregator_key" in flower)


@pytest.mark.parametrize(("flower", "signed_by", "code"), [(PINNED, OTHER, 3), ("host = 'x'\n", KEY, 1)])
def test_the_learner_checks_again_before_anything_is_loaded(
    tmp_path: Path, flower: str, signed_by: ec.EllipticCurvePrivateKey, code: int
) -> None:
    settings(tmp_path, flower)
    invitation = msgspec.structs.replace(INVITATION, expires_at=time.time() + 1e6)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(sign_invitation(invitation, signed_by)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edge_agent.learner"),
            *("--config", str(tmp_path / "agent.toml"), "--invitation", str(tmp_path / "invitation.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == code, done.stderr
    assert ("not signed" if code == 3 else "fedge-aggregator identity") in done.stderr
