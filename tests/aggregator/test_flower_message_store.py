"""Both forms of a message over the real server: whole, and as Flower's own tree of objects, pulled by Flower's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supernode.fleet_http_connection import http_request_response
from waiting import AMPLE_S

from aggregator.flower import flower_internals
from aggregator.flower.message_store import MessageStore
from aggregator.flower.server import FlowerServer, FlowerServerSettings
from edge_agent.learner.flower_internals import set_message_id
from protocol.identity import public_key_pem
from protocol.names import DeviceId
from protocol.questions import FitQuestion

QUESTION = FitQuestion(run_id="r", round_number=1, layout_sha256="0" * 64, profile_sha256="1" * 64)
DEVICE = DeviceId("press-0")


@pytest.fixture
def tls(tmp_path: Path) -> world.Tls:
    return world.make_tls(tmp_path)


@pytest.fixture
def server(tmp_path: Path, tls: world.Tls) -> Iterator[FlowerServer]:
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "aggregator")
    with FlowerServer(settings) as running:
        yield running


@pytest.mark.slow
def test_stock_flower_client_is_served_in_objects(server: FlowerServer, tls: world.Tls) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    server.sync_roster({DEVICE: public_key_pem(key.public_key())})
    link = server.link(server.start_run())
    parameters = np.arange(5, dtype=np.float32)
    with http_request_response(f"127.0.0.1:{server.port}", False, str(tls.ca), (key, key.public_key())) as (
        _,
        receive,
        send,
        _get_run,
        _get_fab,
        pull_object,
        push_object,
        confirm,
    ):
        tickets = link.ask([DEVICE], QUESTION, {"parameters": parameters}, lifetime_s=20)
        received = receive()
        assert received is not None
        stub, tree = received
        ids = [node.object_id for node in flower_internals.iterate_object_tree(tree)]
        contents = {name: pull_object(stub.metadata.run_id, name) for name in ids}
        message = inflate_object_from_contents(stub.metadata.message_id, contents)
        confirm(stub.metadata.run_id, stub.metadata.message_id)
        assert message.content["arrays"]["parameters"].numpy().tolist() == parameters.tolist()
        answer = flower_internals.ArrayRecord({"vector": flower_internals.Array(np.ones(3, np.float32))})
        flower_internals.replace_metadata(message, stub.metadata)
        reply = flower_internals.Message(flower_internals.RecordDict({"answer": answer}), reply_to=message)
        set_message_id(reply)
        objects = get_all_nested_objects(reply)
        wanted, session = send(reply, get_object_tree(reply), 0.1)
        assert set(wanted) == set(objects)
        for name in wanted:
            assert link.replies(list(tickets), wait_s=0.0) == []  # not before it is complete
            push_object(stub.metadata.run_id, session, name, objects[name].deflate())
        (heard,) = link.replies(list(tickets), wait_s=AMPLE_S)
        assert heard.device == DEVICE
        np.testing.assert_array_equal(heard.vector, np.ones(3))


def ask(store: MessageStore, *nodes: int) -> list[str]:
    identity = flower_internals.TaskIdentity
    identity.run_id, identity.node_id, identity.task_id = 7, 1, 1
    messages = []
    for node in nodes:
        content = flower_internals.RecordDict(
            {"question": flower_internals.ConfigRecord({"json": str(node)})}
        )
        message = flower_internals.Message(content, node, "query.x", ttl=60.0)
        set_message_id(message)
        messages.append(message)
    store.post(messages)
    return [message.metadata.message_id for message in messages]


def reply_to(question: object, text: str = "yes") -> object:
    content = flower_internals.RecordDict({"answer": flower_internals.ConfigRecord({"text": text})})
    return flower_internals.message_to_proto(
        flower_internals.Message(content, reply_to=flower_internals.message_from_proto(question))
    )


def test_question_is_handed_out_once_and_only_to_its_node() -> None:
    store = MessageStore(1000)
    ask(store, 1)
    assert len(store.next_question(2, is_whole=True).messages_list) == 0
    assert len(store.next_question(1, is_whole=True).messages_list) == 1
    assert len(store.next_question(1, is_whole=True).messages_list) == 0


def test_reply_counts_only_from_the_node_that_was_asked() -> None:
    store = MessageStore(1000)
    names = ask(store, 1)
    (question,) = store.next_question(1, is_whole=True).messages_list
    store.accept_reply(2, reply_to(question, "forged"), (), 10)
    assert store.take_replies(names) == []
    store.accept_reply(1, reply_to(question), (), 10)
    store.accept_reply(1, reply_to(question, "second thoughts"), (), 10)
    (reply,) = store.take_replies(names)
    assert reply.content["answer"]["text"] == "yes"
    assert store.take_replies(names) == []


def test_withdrawn_question_takes_no_reply_and_is_not_handed_out() -> None:
    store = MessageStore(1000)
    names = ask(store, 1, 2)
    (question,) = store.next_question(1, is_whole=True).messages_list
    store.withdraw(names)
    store.accept_reply(1, reply_to(question), (), 10)
    assert store.take_replies(names) == []
    assert len(store.next_question(2, is_whole=True).messages_list) == 0


def test_reply_that_does_not_parse_is_an_empty_one_not_an_error() -> None:
    store = MessageStore(1000)
    names = ask(store, 1)
    (question,) = store.next_question(1, is_whole=True).messages_list
    stub = reply_to(question)
    stub.content.items[0].array_record.SetInParent()
    stub.content.items[0].array_record.items.add().value.dtype = "nonsense"
    store.accept_reply(1, stub, (), 10)
    (reply,) = store.take_replies(names)
    assert reply.has_content()


def test_objects_beyond_the_byte_limit_are_not_stored() -> None:
    store = MessageStore(10)
    ask(store, 1)
    (question,) = store.next_question(1, is_whole=False).messages_list
    tree = flower_internals.get_object_tree(flower_internals.message_from_proto(reply_to(question)))
    response = store.accept_reply(1, reply_to(question), [tree], 10)
    first, second, *_ = response.objects_to_push
    assert store.accept_object(1, response.session_id, first, b"0123456")
    assert not store.accept_object(1, response.session_id, second, b"0123456")
    assert not store.accept_object(1, response.session_id, "unasked", b"0")
    assert not store.accept_object(2, response.session_id, second, b"0")


def test_messages_of_a_finished_run_are_gone() -> None:
    store = MessageStore(1000)
    names = ask(store, 1)
    store.next_question(1, is_whole=False)
    store.clear(7)
    assert store.withdraw(names) == []
