"""Bodies that are small on the wire and large in memory, from strangers and from a device of the roster: figures of a process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flower_world as world
import pytest
from door_world import PUSH, Answer, Caller, Site
from flwr.proto.message_pb2 import Message
from odd_requests import head
from waiting import died, wait_until

from protocol.errors import MalformedMessageError
from protocol.wire_bounds import check_wire

MIB = 1 << 20
GROWTH_LIMIT = 20 * MIB
CPU_LIMIT_S = 0.05
ANSWER_SIZE = 1_000_000


def varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def items(size: int) -> bytes:
    """A record of as many empty entries as fit into `size` bytes: fifty bytes of memory for two on the wire."""
    return field(2, b"\x0a\x00" * (size // 2))


def packed(size: int) -> bytes:
    """One metric whose list of numbers has an entry for each byte, of eight in memory."""
    message = Message()
    item = message.content.items.add(key="work")
    item.metric_record.items.add(key="x").value.sint_list.vals.extend([0] * size)
    return bytes(message.SerializeToString())


def unknown(size: int) -> bytes:
    return b"\xf8\x07\x00" * (size // 3)


def nested(size: int) -> bytes:
    content = b""
    while len(content) < min(size, 5000):
        content = field(2, content)
    return content


BOMBS = {"items": items, "packed": packed, "unknown": unknown, "nested": nested}


@dataclass
class Door:
    """The process, and its one device."""

    process: subprocess.Popen[bytes]
    site: Site

    def peak_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    def processor_s(self) -> float:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


class _Elsewhere:
    """As `FlowerServer`, as far as a `Site` asks."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    tls, ready, log = world.make_tls(folder), folder / "ready", folder / "log"
    tests = Path(__file__).parent
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(tests / "run_flower_door.py"), str(folder), str(ready), str(ANSWER_SIZE)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (tests.parents[1], tests.parent, tests))),
            },
            stdout=output,
            stderr=output,
        )
    try:
        port = int(
            wait_until(
                lambda: ready.exists() and ready.read_text(), "the door", unless=lambda: died(process, log)
            )
        )
        site = Site(tls, _Elsewhere(port))  # type: ignore[arg-type] # its port is all that is used
        site.fall_in()
        yield Door(process, site)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def send_as_much_as_is_taken(site: Site, start: bytes, content: bytes) -> Answer:
    """As an attacker does: whatever the door says, the body goes on until nobody reads it."""
    with Caller(site.server.port, site.tls) as caller:
        caller.send(start)
        caller.socket.settimeout(0.3)
        try:
            for at in range(0, len(content), MIB):
                caller.send(content[at : at + MIB])
        except OSError:
            pass
        caller.socket.settimeout(60)
        return caller.answer()


def test_60_mib_of_repeated_fields_from_a_stranger_cost_nothing(door: Door) -> None:
    content = items(60 * MIB)
    for signature in ((), ("authorization: Fedge e30.e30",)):
        before, used_s = door.peak_bytes(), door.processor_s()
        start = head(PUSH, *signature, f"content-length: {len(content)}")
        answer = send_as_much_as_is_taken(door.site, start, content)
        grown, used_s = door.peak_bytes() - before, door.processor_s() - used_s
        print(f"stranger, 60 MiB: {grown / MIB:.1f} MiB more, {used_s * 1e3:.1f} ms of processor time")
        assert answer.status == 401
        assert grown <= GROWTH_LIMIT
        assert used_s <= CPU_LIMIT_S


def test_60_mib_of_repeated_fields_from_a_device_of_the_roster_cost_nothing(door: Door) -> None:
    content = items(60 * MIB)
    before, used_s = door.peak_bytes(), door.processor_s()
    answer = send_as_much_as_is_taken(door.site, door.site.signed_head(PUSH, content), content)
    grown, used_s = door.peak_bytes() - before, door.processor_s() - used_s
    print(f"device, 60 MiB: {grown / MIB:.1f} MiB more, {used_s * 1e3:.1f} ms of processor time")
    assert answer.status == 413
    assert grown <= GROWTH_LIMIT
    assert used_s <= CPU_LIMIT_S


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_a_bomb_within_the_size_of_an_honest_answer_is_not_parsed(door: Door, kind: str) -> None:
    content = BOMBS[kind](4 * ANSWER_SIZE)
    before, used_s = door.peak_bytes(), door.processor_s()
    answer = door.site.send(door.site.signed(PUSH, content))
    grown, used_s = door.peak_bytes() - before, door.processor_s() - used_s
    print(
        f"device, {kind}, {len(content)} bytes: {grown / MIB:.1f} MiB more, {used_s * 1e3:.1f} ms of processor time"
    )
    assert (answer.status, answer.body[:14]) == (400, b"not an answer:")
    assert grown <= GROWTH_LIMIT
    # Four million bytes come through TLS first, and are hashed.
    assert used_s <= CPU_LIMIT_S + 0.05 * (len(content) > MIB)


def test_many_bombs_at_once_cost_no_more_than_two(door: Door) -> None:
    content = items(4 * ANSWER_SIZE)
    before = door.peak_bytes()
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(door.site.caller()) for _ in range(7)]
        for caller in callers:
            caller.send(door.site.signed_head(PUSH, content) + content[: MIB // 32])
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.send(content[MIB // 32 :])
        assert sorted(caller.answer().status for caller in callers) == [400] * 2 + [429] * 5
    grown = door.peak_bytes() - before
    print(f"device, seven at once: {grown / MIB:.1f} MiB more")
    assert grown <= GROWTH_LIMIT


def test_what_is_counted_is_what_is_parsed() -> None:
    message = Message()
    item = message.content.items.add(key="sum")
    item.config_record.items.add(key="message").value.bytes = b"\xff" * 5000
    content = bytes(message.SerializeToString())
    # content, items, key, config_record, items, key, value, bytes
    check_wire(content, Message, most=8)
    with pytest.raises(MalformedMessageError, match="more fields"):
        check_wire(content, Message, most=7)


@pytest.mark.parametrize(
    "content",
    [
        b"\x12",
        b"\x12\x05ab",
        b"\x13",
        b"\xff" * 11,
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0a\x02\x09\x00",
        b"\x00",
    ],
)
def test_what_is_cut_off_or_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        check_wire(content, Message)
