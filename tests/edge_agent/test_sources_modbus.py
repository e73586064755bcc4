"""Modbus: numbers of a real device, as its manual says they are; what it refuses is missing, what is no device is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest
from free_ports import free_port
from modbus_server import modbus_device

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import ModbusRegister, ModbusSettings
from edge_agent.sources.modbus import MOST_WORDS, ModbusInstrument, blocks_of


def words(form: str, value: float) -> list[int]:
    packed = struct.pack(form, value)
    return list(struct.unpack(f">{len(packed) // 2}H", packed))


FLOAT = words(">f", 12.5)
HOLDING = [70, 65_535, *FLOAT, *reversed(FLOAT), *words(">d", -1e6), 32_768, *words(">f", float("nan"))]
REGISTERS = (
    ModbusRegister(name="count", address=0),
    ModbusRegister(name="signed", address=1, type="int16", scale=0.1, offset=1.0),
    ModbusRegister(name="float", address=2, type="float32"),
    ModbusRegister(name="swapped", address=4, type="float32", low_word_first=True),
    ModbusRegister(name="double", address=6, type="float64"),
    ModbusRegister(name="failed", address=10, type="int16", missing=-32_768),
    ModbusRegister(name="no number", address=11, type="float32"),
    ModbusRegister(name="input", address=0, table="input"),
    ModbusRegister(name="coil", address=1, table="coil"),
)


def settings_of(
    port: int, registers: tuple[ModbusRegister, ...] = REGISTERS, **more: float
) -> ModbusSettings:
    return ModbusSettings(url=f"modbus://127.0.0.1:{port}", registers=registers, **more)


def test_each_number_is_what_its_register_says_in_its_type_order_and_scale() -> None:
    port = free_port()
    with modbus_device(port, holding=HOLDING, coils=[0, 1]):
        instrument = ModbusInstrument(settings_of(port))
        row = instrument.read()
        instrument.close()
    assert row == pytest.approx(np.float32([70, 0.9, 12.5, 12.5, -1e6, np.nan, np.nan, 7, 1]), nan_ok=True)


def test_what_the_device_refuses_is_missing_and_all_of_it_is_no_row() -> None:
    port = free_port()
    well, beyond = REGISTERS[0], ModbusRegister(name="beyond", address=5000)
    with modbus_device(port, holding=HOLDING):
        assert np.isnan(ModbusInstrument(settings_of(port, (well, beyond))).read()).tolist() == [False, True]
        with pytest.raises(SourceError, match="refuses every register: exception 2 for holding 5000 to 5000"):
            ModbusInstrument(settings_of(port, (beyond,))).read()


def test_a_device_that_went_away_gives_no_row_and_one_that_came_back_does() -> None:
    port = free_port()
    instrument = ModbusInstrument(settings_of(port, answers_within_s=1.0))
    with pytest.raises(SourceError, match="cannot be reached: is the device on"):
        instrument.read()
    for count in (1, 2):
        with modbus_device(port, holding=[count, *HOLDING[1:]], coils=[0, 1]):
            assert instrument.read()[0] == count
        with pytest.raises(SourceError):
            instrument.read()
    instrument.close()


def answer_of(tail: bytes) -> Callable[[bytes], bytes]:
    return lambda request: request[:4] + struct.pack(">H", len(tail) + 1) + request[6:7] + tail


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda request: b"\xff" * 100_000,
        lambda request: b"",
        answer_of(b"\x03\xff" + b"\0" * 4),
        answer_of(b"\x03\x00"),
        answer_of(b"\x2b"),
        lambda request: request[:4] + b"\xff\xff" + request[6:7] + b"\x03" + b"\0" * 70_000,
    ],
    ids=["http", "noise", "silence", "claims more", "claims none", "another function", "endless frame"],
)
def test_what_is_no_modbus_device_is_told_in_one_line(answer: Callable[[bytes], bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                try:
                    peer.sendall(answer(peer.recv(300)))
                    peer.recv(300)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        instrument = ModbusInstrument(
            settings_of(listener.getsockname()[1], REGISTERS[:1], answers_within_s=0.3)
        )
        with pytest.raises(SourceError) as told:
            instrument.read()
        assert "\n" not in str(told.value)
        instrument.close()
        thread.join()


def test_neighbours_are_read_at_once_and_strangers_are_not() -> None:
    near = [ModbusRegister(name=f"r{i}", address=i) for i in range(200)]
    far = ModbusRegister(name="far", address=9000, type="float64")
    blocks = blocks_of([*near, far])
    assert [(block.first, block.count) for block in blocks] == [(0, MOST_WORDS), (MOST_WORDS, 75), (9000, 4)]
    assert sorted(place for block in blocks for place in block.places) == list(range(201))
