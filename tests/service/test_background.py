"""Tasks beside the API end when they shall, also where a cancellation gets lost."""

from __future__ import annotations

import asyncio

import pytest

from service import background
from service.background import end_tasks


async def connects_again_and_again(began: asyncio.Event) -> None:
    """As a connection that breaks in the moment of its cancellation: what its task group raises is the break."""

    async def breaks_when_ended() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("the broker is gone")

    for _ in range(2):
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(breaks_when_ended())
                began.set()
        except* OSError:
            pass
    await asyncio.sleep(3600)


def test_a_task_whose_cancellation_gets_lost_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_S", 0.01)

    async def run() -> asyncio.Task[None]:
        began = asyncio.Event()
        task = asyncio.create_task(connects_again_and_again(began))
        await began.wait()
        await end_tasks([task])
        return task

    assert asyncio.run(run()).cancelled()


def test_a_task_that_has_failed_is_over() -> None:
    async def fails() -> None:
        raise ValueError("no luck today")

    async def run() -> None:
        task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        await end_tasks([task])
        assert isinstance(task.exception(), ValueError)

    asyncio.run(run())
