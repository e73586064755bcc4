"""What is done again and again takes no more than its share of the time, however much waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fleet import repeating


def test_while_more_waits_the_rest_is_four_times_the_turn_up_to_five_seconds_and_else_as_long_as_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    turns: Iterator[bool] = iter([True, True, True, False])
    clock = iter([0.0, 0.01, 10.0, 11.0, 20.0, 29.5, 40.0, 45.0])

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    asked = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(repeating, "time", asked)
    monkeypatch.setattr(repeating.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(repeating.repeat(lambda: next(turns), every_s=2.0, pause_s=0.1, failed="never"))
    assert slept == [0.1, 4.0, 5.0, 2.0]
