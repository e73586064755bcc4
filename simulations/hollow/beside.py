"""A crowd at work in a thread of its own, so that its caller can do something to the fleet meanwhile: tests, benchmarks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from simulations.hollow.crowd import Crowd

__all__ = ["AtWork", "at_work"]


class AtWork:
    """What the caller may ask of a crowd that is at work; its figures may be read at any time."""

    def __init__(self, crowd: Crowd, loop: asyncio.AbstractEventLoop) -> None:
        self.crowd, self._loop = crowd, loop

    def settle(self, patience: Callable[[], bool]) -> bool:
        """See `Crowd.settle`."""
        return asyncio.run_coroutine_threadsafe(self.crowd.settle(patience), self._loop).result()


@contextmanager
def at_work(crowd: Crowd) -> Iterator[AtWork]:
    """Let a crowd work until the block ends; an error of its loop is raised then."""
    started = threading.Event()
    stopping: list[Callable[[], object]] = []
    loops: list[asyncio.AbstractEventLoop] = []
    failed: list[BaseException] = []

    async def work() -> None:
        running = asyncio.create_task(crowd.run())
        loops.append(loop := asyncio.get_running_loop())
        stopping.append(lambda: loop.call_soon_threadsafe(running.cancel))
        started.set()
        try:
            await running
        except asyncio.CancelledError:
            pass
        finally:
            crowd.leave()

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's to see
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run, name="hollow-crowd", daemon=True)
    thread.start()
    started.wait()
    try:
        yield AtWork(crowd, loops[0])
    finally:
        if thread.is_alive():
            stopping[0]()
        thread.join()
    if failed:
        raise failed[0]
