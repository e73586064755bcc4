"""Bodies at the Flower door: how long, how they come, how late, and how many at once. Real server, TLS."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator

import flower_world as world
import numpy as np
import pytest
from door_world import DEVICE, KEY, PULL, PUSH, Caller, Site, site, tls
from flower_rounds_world import fit
from odd_requests import head
from slow_link import relay
from waiting import AMPLE_S, wait_until

from aggregator.flower.message_store import UNASKED_BYTES
from edge_agent.learner.flower_internals import Array, ArrayRecord, Message, RecordDict
from service import https_server

__all__ = ["site", "tls"]  # the fixtures
PARAMETERS = 1_000_000
LINK_BYTES_PER_S = 300_000 / 8


@pytest.fixture(autouse=True)
def _places(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with no connection open, and those that were refused do not stay for long."""
    wait_until(lambda: not len(site.server.connections), "free places")
    monkeypatch.setattr(https_server, "LINGER_S", 0.05)


@contextlib.contextmanager
def asked(site: Site, answer_size: int) -> Iterator[None]:
    """The device has an open question for as long as the block lasts."""
    run = site.server.start_run()
    link = site.server.link(run)
    tickets = link.ask([DEVICE], fit(), {}, lifetime_s=AMPLE_S, answer_size=answer_size)
    try:
        yield
    finally:
        link.withdraw(list(tickets))


@pytest.mark.parametrize("path", [PULL, "/v1/fleet/activate-node", "/v1/fleet/send-node-heartbeat"])
def test_where_nothing_has_to_be_said_nothing_is_taken(site: Site, path: str) -> None:
    answer = site.send(site.signed_head(path, b"x"))
    assert (answer.status, answer.body[:16]) == (413, b"at most 0 bytes ")


def test_a_device_may_send_what_its_question_needs_and_little_where_it_has_none(site: Site) -> None:
    def of(size: int) -> int:
        return site.send(site.signed_head(PUSH, b"", f"content-length: {size}") + bytes(min(size, 1))).status

    assert of(UNASKED_BYTES + 1) == 413
    with asked(site, 10_000):
        assert of(64 * 1024) == 413
        assert site.send(site.signed(PUSH, bytes(50_000))).status == 400  # read, and no answer
    assert of(50_000) == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["transfer-encoding: chunked"], 411),
        (["content-length: 1e3"], 400),
        (["content-length: 99999999999999999999"], 411),
        (["content-length: 0", "content-encoding: gzip"], 415),
        (["content-length: 0", "content-encoding: identity, gzip"], 415),
    ],
)
def test_a_body_says_in_one_way_how_long_it_is_and_comes_as_it_is(
    site: Site, headers: list[str], status: int
) -> None:
    assert site.send(site.signed_head(PUSH, b"", *headers)).status == status


def test_more_bytes_than_were_said_are_another_request_which_is_a_strangers(site: Site) -> None:
    with site.caller() as caller:
        caller.send(site.signed(PULL) + head(PUSH, "content-length: 5") + b"abcde")
        assert [caller.answer().status for _ in range(2)] == [200, 401]
        wait_until(caller.is_ended, "its end")


def test_fewer_bytes_than_were_said_are_waited_for_and_then_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "GRACE_S", 0.3)
    with site.caller() as caller:
        caller.send(site.signed_head(PUSH, b"", "content-length: 10") + b"short")
        assert caller.answer().status == 408
        wait_until(caller.is_ended, "its end")


def test_30_of_30_stalled_bodies_are_ended_however_long_they_say_they_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "GRACE_S", 0.3)
    length = f"content-length: {4 * PARAMETERS}"
    # At that rate the whole of it would have four minutes.
    assert https_server.transfer_time_s(4 * PARAMETERS) > 240
    callers = [Caller(site.server.port, site.tls) for _ in range(30)]
    with asked(site, PARAMETERS):
        for number, caller in enumerate(callers):
            if number % 2:
                caller.send(site.signed_head(PUSH, b"", length) + b"x")
            else:
                caller.send(head(PUSH, "authorization: Fedge e30.e30", length) + b"x")
        answers = [caller.answer().status for caller in callers]
    assert answers[::2] == [401] * 15
    assert set(answers[1::2]) <= {408, 429}
    assert 408 in answers
    wait_until(lambda: all(caller.is_ended() for caller in callers), "the end of every connection")
    assert site.send(site.signed(PULL)).status == 200


def test_a_device_has_few_connections_and_few_requests_at_once(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(site.caller()) for _ in range(12)]

        def ask(caller: Caller) -> int:
            caller.send(site.signed(PULL))
            return caller.answer().status

        assert [ask(caller) for caller in callers] == [200] * 8 + [429] * 4
        for caller in callers[:8]:
            caller.send(site.signed_head(PUSH, b"x"))
        # Two answers at once; of anything, four.
        wait_until(lambda: sum(not caller.is_waiting(0) for caller in callers[:8]) >= 6, "six refusals")
        refused = [caller for caller in callers[:8] if not caller.is_waiting()]
        assert [caller.answer().status for caller in refused] == [429] * 6
    wait_until(lambda: site.send(site.signed(PULL)).status == 200, "a place")


def test_a_slow_device_with_a_million_parameters_is_in_time_and_one_that_is_slower_than_any_link_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundred times quicker than in life: 4 MB within the time that a link of 128 kbit/s would need.
    monkeypatch.setattr(https_server, "SLOWEST_BYTES_PER_S", 100 * https_server.SLOWEST_BYTES_PER_S)
    monkeypatch.setattr(https_server, "GRACE_S", 0.1)
    content = bytes(4 * PARAMETERS)
    with asked(site, PARAMETERS):
        assert throttled(site, content, 100 * LINK_BYTES_PER_S) == 400  # it came whole, and is no answer
        assert throttled(site, content, 30 * LINK_BYTES_PER_S) == 408


def throttled(site: Site, content: bytes, bytes_per_s: float) -> int:
    with site.caller() as caller:
        caller.send(site.signed_head(PUSH, content))
        begun, step = time.monotonic(), 16_384
        for at in range(0, len(content), step):
            try:
                caller.send(content[at : at + step])
            except OSError:
                break
            if (early_s := begun + at / bytes_per_s - time.monotonic()) > 0:
                time.sleep(early_s)
        return caller.answer().status


@pytest.mark.long
def test_an_honest_device_on_300_kbit_per_s_answers_with_a_million_parameters(site: Site) -> None:
    vector = np.arange(PARAMETERS, dtype=np.float32)
    run = site.server.start_run()
    link = site.server.link(run)
    tickets = link.ask([DEVICE], fit(), {"parameters": vector}, lifetime_s=AMPLE_S, answer_size=PARAMETERS)
    with relay(site.server.port, LINK_BYTES_PER_S) as port:
        client = world.connect(port, site.tls, KEY)
        question = wait_until(client.pull, "the question")
        np.testing.assert_array_equal(question.content["arrays"]["parameters"].numpy(), vector)
        answer = ArrayRecord({"vector": Array(vector)})
        client.reply(Message(RecordDict({"answer": answer}), reply_to=question))
        client.close()
    (reply,) = link.replies(list(tickets), wait_s=AMPLE_S)
    assert reply.content is not None
    assert hashlib.sha256(reply.content.tobytes()).digest() == hashlib.sha256(vector.tobytes()).digest()
