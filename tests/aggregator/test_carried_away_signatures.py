"""Signatures that were caught on their way: sent once more, elsewhere, or around something else. Real server, TLS."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from pathlib import Path

import flower_world as world
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from door_world import DEVICE, KEY, PULL, PUSH, Site, serving, site, tls
from odd_requests import head

from edge_agent.errors import AggregatorRefusedError
from protocol.signed_requests import (
    ANSWER_HEADER,
    TIME_WINDOW_S,
    WINDOW,
    RequestSigner,
    Step,
    StepCounter,
    decode_step,
    read_request,
    sign_answer,
)

__all__ = ["site", "tls"]  # the fixtures
HEARTBEAT = "/v1/fleet/send-node-heartbeat"


def test_a_captured_request_replayed_is_refused_and_its_device_goes_on(site: Site) -> None:
    caught = site.signed(PULL)
    assert site.send(caught).status == 200
    assert [site.send(caught).status for _ in range(3)] == [401] * 3
    assert site.send(site.signed(PULL)).status == 200


def test_a_captured_request_replayed_twice_at_once_is_taken_once(site: Site) -> None:
    caught = site.signed(PULL)
    with site.caller() as caller:
        caller.send(caught * 5)
        assert sorted(caller.answer().status for _ in range(5)) == [200, 401, 401, 401, 401]


@pytest.mark.parametrize("path", [PUSH, HEARTBEAT, f"{PULL}?x=1", "/v1/fleet/%70ull-messages", f"/{PULL}"])
def test_a_captured_request_at_another_path_is_a_strangers(site: Site, path: str) -> None:
    request = site.signed(PULL)
    elsewhere = request.replace(f"POST {PULL} ".encode(), f"POST {path} ".encode())
    assert elsewhere != request
    assert site.send(elsewhere).status == 401


def test_a_captured_request_under_another_method_is_a_strangers(site: Site) -> None:
    assert site.send(site.signed(PULL).replace(b"POST", b"PUT")).status == 401


def test_a_captured_request_around_another_body_is_refused(site: Site) -> None:
    site.ask(10)
    answer = site.send(site.signed_head(PUSH, b"one answer") + b"my  answer")
    assert (answer.status, answer.body) == (401, b"the body is not the one that the device has signed")


def test_a_captured_request_at_another_aggregator_is_a_strangers(
    site: Site, tmp_path: Path, tls: world.Tls
) -> None:
    with serving(tmp_path / "other", tls, ec.generate_private_key(ec.SECP256R1())) as other:
        other.fall_in()
        # In step with the other one, as a thief can be who knows its session, and still signed for ours.
        step = decode_step(other.send(other.signed(PULL)).body) or Step(
            session=other.signer._session, number=50, time=time.time()
        )
        site.signer.fall_in(step)
        answer = other.send(site.signed(PULL))
        assert (answer.status, answer.body) == (
            401,
            b"the request is signed for an aggregator with another key",
        )
        assert ANSWER_HEADER not in answer.headers


def test_a_captured_request_after_a_restart_of_the_aggregator_is_refused(
    tmp_path: Path, tls: world.Tls
) -> None:
    with serving(tmp_path / "aggregator", tls) as before:
        before.fall_in()
        used, unused = before.signed(PULL), before.signed(PULL)
        assert before.send(used).status == 200
    with serving(tmp_path / "aggregator", tls) as after:
        assert [after.send(caught).status for caught in (used, unused)] == [401, 401]
        client = world.connect(after.server.port, tls, KEY)
        client.activate()
        assert after.server.online_devices() == {DEVICE}
        client.close()


def test_a_device_that_was_in_step_before_a_restart_falls_in_by_itself(
    tmp_path: Path, tls: world.Tls
) -> None:
    with serving(tmp_path / "aggregator", tls) as before:
        client = world.connect(before.server.port, tls, KEY)
        client.activate()
    with serving(tmp_path / "aggregator", tls) as after:
        moved = world.connect(after.server.port, tls, KEY)
        moved._signer = client._signer
        assert moved.pull() is None
        moved.close()
    client.close()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Fedge",
        "Fedge .",
        "Fedge a.b.c",
        "Fedge e30.e30",
        "Bearer ao_0123456789",
        "Fedge " + "A" * 5000,
        "Fedge ÿÿ.ÿÿ",
    ],
)
def test_a_signature_that_is_none_is_a_strangers(site: Site, authorization: str) -> None:
    request = head(PULL, f"authorization: {authorization}", "content-length: 0")
    assert site.send(request).status == 401


def test_two_signatures_in_one_request_are_a_strangers(site: Site) -> None:
    request = site.signed(PULL)
    twice = request.replace(b"\r\nhost: x", b"\r\nhost: x\r\nauthorization: Fedge e30.e30", 1)
    assert site.send(twice).status == 401


def counter(now_s: float = 1000.0) -> tuple[StepCounter, RequestSigner]:
    steps = StepCounter("ab" * 16, now=lambda: now_s)
    signer = RequestSigner(KEY, world.IDENTITY.public_key(), clock=lambda: 0.0)
    signer.fall_in(Step(session="ab" * 16, number=0, time=1000.0))
    return steps, signer


def take(steps: StepCounter, text: str) -> bool:
    return steps.take(read_request(text, "POST", PULL).claims)


@pytest.mark.parametrize(
    ("late_s", "is_taken"), [(0, True), (TIME_WINDOW_S, True), (61, False), (3600, False), (-61, False)]
)
def test_a_captured_request_that_never_arrived_is_of_no_use_an_hour_later(
    late_s: float, is_taken: bool
) -> None:
    steps, signer = counter(1000.0 + late_s)
    assert take(steps, signer.sign("POST", PULL, b"")) == is_taken


def test_requests_may_overtake_each_other_by_less_than_the_window_and_each_is_taken_once() -> None:
    steps, signer = counter()
    signed = [signer.sign("POST", PULL, b"") for _ in range(WINDOW + 2)]
    assert take(steps, signed[-1])
    assert not take(steps, signed[0])
    assert not take(steps, signed[1])
    assert all(take(steps, text) for text in signed[2:-1])
    assert not any(take(steps, text) for text in signed)


def test_the_memory_of_numbers_does_not_grow_with_requests() -> None:
    steps, signer = counter()
    for _ in range(3 * WINDOW):
        assert take(steps, signer.sign("POST", PULL, b""))
    (taken,) = steps._taken.values()
    assert taken.bit_length() <= WINDOW


class _Impostor(http.server.BaseHTTPRequestHandler):
    """Has a certificate of the right CA for the right name, and another key than the pinned one."""

    key = ec.generate_private_key(ec.SECP256R1())
    caught = ""

    def do_POST(self) -> None:
        body = b""
        signature = sign_answer(self.key, self.headers["authorization"], 200, body)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header(ANSWER_HEADER, type(self).caught or signature)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("how", ["its own key", "a caught answer", "none"])
def test_whoever_answers_without_the_pinned_key_is_not_believed(site: Site, tls: world.Tls, how: str) -> None:
    answer = site.send(site.signed(PULL))
    caught = {"its own key": "", "a caught answer": answer.headers[ANSWER_HEADER], "none": "!"}[how]

    class Handler(_Impostor):
        pass

    Handler.caught = caught
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    client = world.connect(server.server_address[1], tls, KEY)
    try:
        with pytest.raises(AggregatorRefusedError, match="not the aggregator whose key is pinned"):
            client.pull()
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()
