"""Registers of a Modbus TCP device, by pymodbus (extra ``modbus``).

Neighbouring registers are read in one request, as many as a frame takes. A block that the device refuses is missing, the others are
not; a device that does not answer gives no row, and the next row connects anew. What comes in is bounded by the protocol: a frame is at
most 65 541 bytes, and what is no answer within `answers_within_s` ends the connection.

Source: MODBUS Application Protocol Specification V1.1b3, sections 6.1–6.4.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import ModbusRegister, ModbusSettings
from edge_agent.sources.sampled import number

if TYPE_CHECKING:
    from pymodbus.client import ModbusTcpClient

__all__ = ["ModbusInstrument", "blocks_of"]

MOST_WORDS: Final = 125
"""Of one answer."""
MOST_BITS: Final = 2000
GAP: Final = 8
"""Registers that nobody asked for are read along where that saves a request; some devices refuse those that are not there."""
_FORMATS: Final = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
_BITS: Final = frozenset({"coil", "discrete"})


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one request reads: `count` registers or bits from `first`; `places` are those of the sensors in it."""

    table: str
    first: int
    count: int
    places: tuple[int, ...]


class ModbusInstrument:
    """Implements `sampled.Instrument`; raises SourceError where pymodbus is not installed."""

    def __init__(self, settings: ModbusSettings) -> None:
        try:
            from pymodbus.client import ModbusTcpClient  # 15 MB, for this source alone
            from pymodbus.exceptions import ModbusException
        except ImportError:
            raise SourceError("source.kind 'modbus' needs pymodbus: pip install 'fedge[modbus]'") from None
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it logs whole frames; we say what matters
        self._settings, self._failure = settings, ModbusException
        self._blocks = blocks_of(settings.registers)
        host, port = settings.endpoint
        self._client: ModbusTcpClient = ModbusTcpClient(
            host, port=port, timeout=settings.answers_within_s, retries=0
        )

    def read(self) -> NDArray[np.float32]:
        """See `Instrument`."""
        row = np.full(len(self._settings.registers), np.nan, np.float32)
        refusals = list[str]()
        for block in self._blocks:
            found = self._asked(block)
            if isinstance(found, str):
                refusals.append(found)
                continue
            for place in block.places:
                row[place] = _value(self._settings.registers[place], found, block)
        if len(refusals) == len(self._blocks):
            raise SourceError(f"{self._settings.where} refuses every register: {refusals[0]}")
        return row

    def close(self) -> None:
        """See `Instrument`."""
        self._client.close()

    def _asked(self, block: Block) -> Sequence[int] | str:
        """The words or bits of a block, or what the device says instead; raises SourceError where it says nothing."""
        asking = {
            "holding": self._client.read_holding_registers,
            "input": self._client.read_input_registers,
            "coil": self._client.read_coils,
            "discrete": self._client.read_discrete_inputs,
        }[block.table]
        try:
            if not self._client.connect():
                raise SourceError(
                    f"{self._settings.where} cannot be reached: is the device on, and the port right?"
                )
            answer = asking(block.first, count=block.count, device_id=self._settings.unit)
        except (self._failure, OSError, struct.error, ValueError, IndexError, TimeoutError) as error:
            self._client.close()
            raise SourceError(
                f"{self._settings.where} does not answer within {self._settings.answers_within_s:g} s as a Modbus device does ({type(error).__name__})"
            ) from None
        if answer.isError():
            return f"exception {getattr(answer, 'exception_code', '?')} for {block.table} {block.first} to {block.first + block.count - 1}"
        found: Sequence[int] = answer.bits if block.table in _BITS else answer.registers
        if len(found) < block.count:
            self._client.close()
            raise SourceError(
                f"{self._settings.where} gave {len(found)} of {block.count} values that were asked for"
            )
        return found


def blocks_of(registers: Sequence[ModbusRegister]) -> tuple[Block, ...]:
    """As few requests as read all registers, each within what one answer takes."""
    blocks = list[Block]()
    for table in sorted({register.table for register in registers}):
        most = MOST_BITS if table in _BITS else MOST_WORDS
        places = sorted(
            (i for i, r in enumerate(registers) if r.table == table), key=lambda i: registers[i].address
        )
        group = list[int]()
        for place in places:
            is_far = bool(group) and registers[place].address - _end(registers, group) > GAP
            if is_far or _reach(registers, [*group, place]) > most:
                blocks.append(_block(table, registers, group))
                group = []
            group.append(place)
        blocks.append(_block(table, registers, group))
    return tuple(blocks)


def _block(table: str, registers: Sequence[ModbusRegister], group: Sequence[int]) -> Block:
    return Block(
        table=table, first=registers[group[0]].address, count=_reach(registers, group), places=tuple(group)
    )


def _reach(registers: Sequence[ModbusRegister], group: Sequence[int]) -> int:
    return _end(registers, group) - registers[group[0]].address


def _end(registers: Sequence[ModbusRegister], group: Iterable[int]) -> int:
    return max(registers[place].address + _words(registers[place]) for place in group)


def _words(register: ModbusRegister) -> int:
    return 1 if register.table in _BITS else struct.calcsize(_FORMATS[register.type]) // 2


def _value(register: ModbusRegister, found: Sequence[int], block: Block) -> float:
    at = register.address - block.first
    if register.table in _BITS:
        raw: float = bool(found[at])
    else:
        words = [word & 0xFFFF for word in found[at : at + _words(register)]]
        if register.low_word_first:
            words.reverse()
        (raw,) = struct.unpack(_FORMATS[register.type], struct.pack(f">{len(words)}H", *words))
    if raw == register.missing:
        return float("nan")
    return number(raw * register.scale + register.offset)
