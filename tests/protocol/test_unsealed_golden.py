"""What an agent and a fleet of 7cc0d60 say, byte for byte: it is read, told from what is sealed, and obeyed by nobody.

`golden/unsealed.7cc0d60.json` was written by that commit's own `encode`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import MalformedMessageError, SealError
from protocol.messages.envelope import decode, encode
from protocol.messages.kinds import Kind
from protocol.sealed_events import check_seal, seal

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "unsealed.7cc0d60.json").read_text())
KINDS = [Kind.DESIRED, Kind.COMMANDS, Kind.ACK, Kind.REPORT, Kind.RESULT]
KEY = ec.derive_private_key(5, ec.SECP256R1())


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_without_a_seal_reads_and_says_that_its_sender_is_older(kind: Kind) -> None:
    payload = GOLDEN[kind.value].encode()
    event = decode(payload, kind)
    assert event.seal is None
    assert encode(event) == payload, "a message without a seal is what it was, to the byte"
    with pytest.raises(SealError, match=f"this {kind.value} message is not signed; its sender is older"):
        check_seal(event, [KEY.public_key()], tenant="demo", device="press-1", now_s=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_side_reads_a_sealed_message_as_what_it_says(kind: Kind) -> None:
    """It knows nothing of seals: three attributes more, which CloudEvents and that version's decoder leave alone."""
    event = decode(GOLDEN[kind.value].encode(), kind)
    sealed = encode(seal(event, KEY, tenant="demo", device="press-1", nonce="0" * 32, not_after=1))
    fields = json.loads(sealed)
    added = {name: fields.pop(name) for name in ("notafter", "nonce", "signature")}
    assert all(added.values())
    assert fields == json.loads(GOLDEN[kind.value])


@pytest.mark.parametrize("name", ["https desired", "https commands", "https result"])
def test_an_answer_of_the_older_https_is_no_message(name: str) -> None:
    with pytest.raises(MalformedMessageError, match="not a Fedge message"):
        decode(GOLDEN[name].encode())
