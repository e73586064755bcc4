"""A real Modbus TCP device on loopback, pymodbus's server in a thread of its own: registers from 0, and nothing beyond them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusTcpServer

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def modbus_device(
    port: int, *, holding: Sequence[int], coils: Sequence[int] = (0,), unit: int = 1
) -> Iterator[None]:
    """Serve until the block ends; input registers are a tenth of the holding ones."""
    device = ModbusDeviceContext(
        hr=ModbusSequentialDataBlock(1, list(holding)),
        ir=ModbusSequentialDataBlock(1, [value // 10 for value in holding]),
        co=ModbusSequentialDataBlock(1, list(coils)),
        di=ModbusSequentialDataBlock(1, [0]),
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> ModbusTcpServer:
        context = ModbusServerContext(devices={unit: device}, single=False)
        server = ModbusTcpServer(context, address=("127.0.0.1", port))
        await server.serve_forever(background=True)
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.shutdown(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
