"""Drives a bridge: until there is nothing new, or for good; what fails is tried again, ever more slowly."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import structlog

from fleet.bridges.port import Bridge, BridgeError
from runtime.backoff import backoff_s
from service.errors import ClientError

__all__ = ["carry"]

LONGEST_PAUSE_S: Final = 300.0

_log = structlog.get_logger()


def carry(
    bridge: Bridge, *, once: bool, every_s: float, sleep: Callable[[float], None], told: Callable[[int], None]
) -> int:
    """Carry all that is new; how many things that were. Without `once` go on until interrupted.

    Args:
        bridge: carries.
        once: end where nothing is new, and let an error through.
        every_s: between two looks where nothing was new.
        sleep: waits for so many seconds.
        told: hears after each piece how many there were so far.

    Raises:
        BridgeError, ClientError: `once`, and a side did not answer.
    """
    carried = failures = 0
    while True:
        try:
            count = bridge.step()
        except (BridgeError, ClientError) as error:
            if once:
                raise
            failures += 1
            if failures == 1:
                _log.warning("bridge_waits", reason=str(error))
            # not a secret: it spreads bridges that lost the same broker
            pause = backoff_s(failures, first_s=1.0, maximum_s=LONGEST_PAUSE_S, draw=random.random())  # noqa: S311 - see above
            sleep(pause)
            continue
        if failures:
            _log.info("bridge_goes_on", after_attempts=failures)
            failures = 0
        carried += count
        if count:
            told(carried)
        elif once:
            return carried
        else:
            sleep(every_s)
