"""The device's side of secure sums, without Flower and without an aggregator: who is believed, what is refused and forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from answerers import NO_GRID, Answers
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import FleetUnreachableError, PrivacyRefusedError, QuestionRefusedError
from edge_agent.learner.client_app import client_app
from edge_agent.learner.family_roster import FamilyRoster
from edge_agent.learner.flower_internals import ConfigRecord, Context, Message, RecordDict
from edge_agent.learner.sum_participant import SumParticipant
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import FIT, FitQuestion, encode_question, fit_layout
from protocol.refusals import RefusalCode, read_refusal
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import StageOrderError
from protocol.sum_terms import SumTerms, encode_terms, hash_arrays, hash_question

pytestmark = pytest.mark.edge

LAYOUT = fit_layout(4)
ARRAYS = {"parameters": np.zeros(4, np.float32)}
QUESTION = encode_question(
    FitQuestion(run_id="run-1", round_number=2, layout_sha256="0" * 64, profile_sha256="1" * 64)
)
TERMS = SumTerms(
    run_id="run-1", question=FIT, round_number=2, devices=3, norm_limit=1.0, maximum_examples=100
)
KEY = ec.derive_private_key(7, ec.SECP256R1())


class Known:
    def keys(self, expected: frozenset[DeviceId]) -> Mapping[DeviceId, ec.EllipticCurvePublicKey]:
        return {DeviceId("a"): KEY.public_key()}


def random_bytes() -> Callable[[int], bytes]:
    count = iter(range(1_000_000))
    return lambda size: hashlib.shake_256(str(next(count)).encode()).digest(size)


def participant(path: Path, limits: OwnerLimits = OwnerLimits()) -> SumParticipant:  # noqa: B008 - an immutable value
    return SumParticipant(
        DeviceId("a"),
        identity_key=KEY,
        roster=Known(),
        policy=DevicePolicy(),
        budget=DeviceAccount(path / "privacy.sqlite", limits),
        learner=Answers(lambda _question, _arrays: np.ones(LAYOUT.total, np.float32), lambda _: LAYOUT),
        random_bytes=random_bytes(),
        now=lambda: 0.0,
    )


def announcement(word_count: int, session: str = "session-1") -> bytes:
    return messages.encode(
        messages.Announcement(
            session=session,
            round_number=2,
            model_hash=hash_arrays(ARRAYS),
            config_hash=hash_question(QUESTION, encode_terms(TERMS)),
            word_bits=32,
            word_count=word_count,
        )
    )


def words_of_the_layout() -> int:
    from protocol.secure_answers import make_encoding

    return make_encoding(LAYOUT, TERMS).word_count


def test_device_advertises_for_terms_that_fit_its_model(tmp_path: Path) -> None:
    reply = participant(tmp_path).advertise(announcement(words_of_the_layout()), encode_terms(TERMS))
    advertisement = messages.decode(reply, messages.Advertisement)
    assert (advertisement.device, advertisement.session) == ("a", "session-1")


def test_announced_words_of_another_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionRefusedError, match="announces 3 words"):
        participant(tmp_path).advertise(announcement(3), encode_terms(TERMS))


def test_every_attempt_has_keys_of_its_own(tmp_path: Path) -> None:
    side = participant(tmp_path)
    seen = set()
    for number in range(5):
        reply = side.advertise(announcement(words_of_the_layout(), f"session-{number}"), encode_terms(TERMS))
        advertisement = messages.decode(reply, messages.Advertisement)
        seen |= {advertisement.sharing_key, advertisement.masking_key}
    assert len(seen) == 10


def test_stage_of_a_session_that_was_left_is_refused(tmp_path: Path) -> None:
    side = participant(tmp_path)
    side.advertise(announcement(words_of_the_layout()), encode_terms(TERMS))
    side.forget()
    request = messages.UnmaskRequest(session="session-1", round_number=2, survivors=b"\x07", dropped=b"\x00")
    with pytest.raises(StageOrderError, match="no part in session 'session-1'"):
        side.unmask(messages.encode(request))


def test_owner_who_wants_noise_declines_an_exact_sum_before_any_training(tmp_path: Path) -> None:
    side = participant(tmp_path, OwnerLimits(require_noise=True))
    with pytest.raises(PrivacyRefusedError, match="noise"):
        side.advertise(announcement(words_of_the_layout()), encode_terms(TERMS))


def ask(app: object, kind: str, content: RecordDict) -> Message:
    from flwr.app import Metadata
    from flwr.app.message import make_message

    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=4e9, ttl=60.0, message_type=kind,
    )  # fmt: skip
    message = make_message(metadata=metadata, content=content)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(message, context)


def test_answer_in_plain_is_refused_unless_the_owner_allows_it() -> None:
    question = RecordDict({"question": ConfigRecord({"json": QUESTION})})
    reply = ask(client_app(None, grid=NO_GRID), FIT, question)
    assert reply.error.reason == "refused: PLAIN"
    allowed = client_app(Answers(lambda *_: np.ones(7, np.float32)), grid=NO_GRID)
    assert ask(allowed, FIT, question).has_content()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"message": "text"},
        {"message": b"\xff\xff"},
        {"message": b"\xff\xff", "terms": "{}"},
        {"message": b"", "terms": "x" * 10_000},
    ],
)
def test_malformed_stage_ends_in_a_named_refusal(tmp_path: Path, content: dict[str, object]) -> None:
    app = client_app(None, participant(tmp_path), grid=NO_GRID)
    for kind in ("query.advertise", "query.share_keys", "query.confirm", "query.unmask"):
        reply = ask(app, kind, RecordDict({"sum": ConfigRecord(content)}))
        assert read_refusal(reply.error.reason) in {RefusalCode.NOT_ASKED, RefusalCode.TERMS}


def test_roster_is_asked_again_for_a_stranger_but_not_without_end() -> None:
    now, calls = [0.0], []
    late = ec.derive_private_key(8, ec.SECP256R1()).public_key()

    def fetch() -> dict[DeviceId, ec.EllipticCurvePublicKey]:
        calls.append(now[0])
        return {DeviceId("a"): KEY.public_key(), **({DeviceId("b"): late} if len(calls) > 1 else {})}

    roster = FamilyRoster(fetch, clock=lambda: now[0])
    first = roster.keys(frozenset({DeviceId("a")}))
    assert set(first) == {"a"}
    roster.keys(frozenset({DeviceId("a"), DeviceId("b")}))
    assert len(calls) == 1
    now[0] = 10.0
    assert set(roster.keys(frozenset({DeviceId("b")}))) == {"a", "b"}
    assert set(first) == {"a", "b"}  # a role that holds it sees the newcomer
    assert len(calls) == 2


def test_without_the_fleets_word_nobody_is_believed() -> None:
    def fetch() -> dict[DeviceId, ec.EllipticCurvePublicKey]:
        raise FleetUnreachableError("the fleet is away")

    with pytest.raises(FleetUnreachableError):
        FamilyRoster(fetch, clock=lambda: 0.0).keys(frozenset({DeviceId("a")}))
