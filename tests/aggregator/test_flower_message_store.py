"""Questions and replies on their way: handed out once, taken once, from whom they were asked of."""

from __future__ import annotations

from aggregator.flower import flower_internals
from aggregator.flower.message_store import UNASKED_BYTES, MessageStore
from edge_agent.learner.flower_internals import set_message_id


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
    store.post(messages, reply_bytes=70_000)
    return [message.metadata.message_id for message in messages]


def reply_to(question: object, text: str = "yes") -> object:
    content = flower_internals.RecordDict({"answer": flower_internals.ConfigRecord({"text": text})})
    return flower_internals.message_to_proto(
        flower_internals.Message(content, reply_to=flower_internals.message_from_proto(question))
    )


def test_question_is_handed_out_once_and_only_to_its_node() -> None:
    store = MessageStore()
    ask(store, 1)
    assert store.next_question(2) is None
    assert store.next_question(1) is not None
    assert store.next_question(1) is None


def test_reply_counts_only_from_the_node_that_was_asked() -> None:
    store = MessageStore()
    names = ask(store, 1)
    question = store.next_question(1)
    assert not store.accept_reply(2, reply_to(question, "forged"), 10)
    assert store.take_replies(names) == []
    store.accept_reply(1, reply_to(question), 10)
    store.accept_reply(1, reply_to(question, "second thoughts"), 10)
    (reply,) = store.take_replies(names)
    assert reply.content["answer"]["text"] == "yes"
    assert store.take_replies(names) == []


def test_withdrawn_question_takes_no_reply_and_is_not_handed_out() -> None:
    store = MessageStore()
    names = ask(store, 1, 2)
    question = store.next_question(1)
    store.withdraw(names)
    assert not store.accept_reply(1, reply_to(question), 10)
    assert store.take_replies(names) == []
    assert store.next_question(2) is None


def test_reply_that_does_not_parse_is_an_empty_one_not_an_error() -> None:
    store = MessageStore()
    names = ask(store, 1)
    question = store.next_question(1)
    stub = reply_to(question)
    stub.content.items[0].array_record.SetInParent()
    stub.content.items[0].array_record.items.add().value.dtype = "nonsense"
    store.accept_reply(1, stub, 10)
    (reply,) = store.take_replies(names)
    assert reply.has_content()


def test_a_node_may_send_what_its_open_questions_need_and_a_few_bytes_where_there_are_none() -> None:
    store = MessageStore()
    names = ask(store, 1)
    assert (store.largest_reply(1), store.largest_reply(2)) == (70_000, UNASKED_BYTES)
    store.withdraw(names)
    assert store.largest_reply(1) == UNASKED_BYTES


def test_messages_of_a_finished_run_are_gone() -> None:
    store = MessageStore()
    names = ask(store, 1)
    store.next_question(1)
    store.clear(7)
    assert store.withdraw(names) == []
