"""The device's half of the interop test: our ClientApp in a stock SuperNode's process, the device's secrets outside of it.

A stock SuperNode starts a new Python process for each message, while a device's part in a secure sum lives in memory from the
first stage to the last. So the `SumParticipant` stays in a process of its own (the test's), and the ClientApp that Flower loads has
a `SumSide` that passes each call on over a loopback connection with a random key. The ClientApp itself is the learner's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from answerers import NO_GRID
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from edge_agent.learner.client_app import SumSide, client_app
from protocol.names import DeviceId

DEVICE, PORT, KEY = "INTEROP_DEVICE", "INTEROP_PORT", "INTEROP_KEY"
STAGES = frozenset({"advertise", "share_keys", "mask", "confirm", "unmask"})


def device_app() -> ClientApp:
    """The learner's app for the device that this SuperNode's environment names."""
    return client_app(None, _RemoteSide(), grid=NO_GRID)


class _RemoteSide:
    """A `SumSide` whose stages are passed elsewhere."""

    def advertise(self, message: bytes, terms_text: str) -> bytes:
        return self._call("advertise", message, terms_text)

    def share_keys(self, message: bytes) -> bytes:
        return self._call("share_keys", message)

    def mask(self, message: bytes, question_text: str, arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
        return self._call("mask", message, question_text, arrays)

    def confirm(self, message: bytes) -> bytes:
        return self._call("confirm", message)

    def unmask(self, message: bytes) -> bytes:
        return self._call("unmask", message)

    @staticmethod
    def _call(stage: str, *arguments: object) -> bytes:
        address = ("127.0.0.1", int(os.environ[PORT]))
        with Client(address, authkey=bytes.fromhex(os.environ[KEY])) as road:
            road.send((os.environ[DEVICE], stage, arguments))
            answer, failure = road.recv()
        if failure is not None:
            raise failure
        assert isinstance(answer, bytes)
        return answer


class SumSides:
    """The devices' own sides, reachable for their SuperNodes; `stages` is what was asked of whom, in order."""

    def __init__(self, sides: Mapping[DeviceId, SumSide]) -> None:
        self._sides, self._key = sides, os.urandom(32)
        self._listener = Listener(("127.0.0.1", 0), authkey=self._key)
        self._is_closing = False
        self.stages: list[tuple[str, DeviceId]] = []

    def environment(self, device: DeviceId) -> dict[str, str]:
        """What a SuperNode of this device is started with."""
        return {DEVICE: device, PORT: str(self._listener.address[1]), KEY: self._key.hex()}

    @contextlib.contextmanager
    def serving(self) -> Iterator[SumSides]:
        """Answer until the end of the block."""
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._is_closing = True
            with contextlib.suppress(OSError), Client(self._listener.address, authkey=self._key):
                pass  # wakes `accept`
            thread.join(5)
            self._listener.close()

    def _serve(self) -> None:
        while not self._is_closing:
            with self._listener.accept() as road, contextlib.suppress(EOFError):
                self._answer(road)

    def _answer(self, road: Connection) -> None:
        device, stage, arguments = road.recv()
        assert stage in STAGES
        self.stages.append((stage, device))
        try:
            road.send((getattr(self._sides[device], stage)(*arguments), None))
        except Exception as failure:  # noqa: BLE001 - what becomes of it is the app's business
            road.send((None, failure))
