"""Runs a crowd from its first device to its accounts: the body of ``fedge-sim hollow``."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.storage.base import open_database
from simulations.endings import temporary_folder, terminate_as_interrupt
from simulations.errors import ProcessFailedError, ScenarioError
from simulations.hollow.accounts import Accounts, settle_accounts
from simulations.hollow.assembly import Plan, make_crowd, save_crowd
from simulations.hollow.crowd import Crowd
from simulations.hollow.ledger import percentile
from simulations.hollow.own_fleet import FAMILY, OwnFleet
from simulations.hollow.place import Place
from simulations.patience import Patience
from simulations.processes import Supervisor

__all__ = ["Figures", "Join", "allow_connections", "figures_of", "play"]

SETTLE_S: Final = 60.0
"""How long the fleet may take to acknowledge the rest, seconds of a quiet machine."""

SPARE_FILES: Final = 200
TOLD_EVERY_S: Final = 1.0

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Join:
    """A fleet that is there already: as its devices know it, with claims, and its database where accounts are wanted."""

    place: Place
    claims: list[str]
    database_url: str | None = None


def play(
    plan: Plan,
    directory: Path | None,
    *,
    join: Join | None,
    database_url: str | None = None,
    seconds: float | None = None,
    tell: Callable[[str], None],
) -> tuple[Figures, Accounts | None]:
    """Run a crowd until `seconds` have passed since everybody is connected, or until Ctrl-C; everything is stopped then.

    Args:
        plan: the crowd.
        directory: where it lives, kept afterwards; None: a temporary one, removed.
        join: the fleet that it joins; None: it starts its own.
        database_url: of its own fleet, of a database that is there and empty; None: SQLite.
        seconds: None: until Ctrl-C.
        tell: gets a line for people about once a second.

    Raises:
        SimulationError: what was missing; everything is stopped all the same.
    """
    with ExitStack() as stack:
        stack.enter_context(terminate_as_interrupt())
        allow_connections(plan.devices)
        home = (directory or stack.enter_context(temporary_folder("fedge-hollow-"))).absolute()
        if join is None:
            if home.exists() and any(home.iterdir()):
                raise ScenarioError(f"{home} is not empty; a fleet of its own needs a folder of its own")
            supervisor = stack.enter_context(Supervisor(home / "logs"))
            own = OwnFleet(home, supervisor, database_url=database_url)
            tell(f"starting broker and fleet in {home}")
            own.start()
            tell(f"fleet: {own.url}   CA: {own.site.plant.ca}   token: {own.site.plant.admin_token}")
            join = Join(place=own.place, claims=[], database_url=own.database_url)
            make_claims = lambda count: own.site.claims(FAMILY, "hollow", count)  # noqa: E731 - one line of two roads
        else:
            given = join.claims
            make_claims = lambda count: given[:count]  # noqa: E731 - the other road
        crowd = make_crowd(plan, join.place, home, make_claims, _enrolment_teller(tell))
        stack.callback(save_crowd, home, crowd)
        figures = asyncio.run(_run(crowd, seconds, tell))
        if join.database_url is None:
            return figures, None
        with closing(open_database(join.database_url)) as database:
            return figures, settle_accounts(database, crowd.devices)


def allow_connections(devices: int) -> None:
    """Let this process, and those it starts, hold a connection for each device; raises ScenarioError."""
    needed = devices + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ScenarioError(
            f"{devices} devices need {needed} open files and this machine allows {hard}: raise it (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard) if hard > 0 else needed, hard))


def figures_of(crowd: Crowd, since: float) -> Figures:
    """What there is to say in numbers; `since` is when the crowd began, monotonic seconds."""
    ledger, seconds = crowd.ledger, max(time.monotonic() - since, 1e-9)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "devices": len(crowd.devices),
        "connected": crowd.connected,
        "seconds": round(seconds, 1),
        "events_sent": ledger.total,
        "events_acknowledged": ledger.acked,
        "events_waiting": ledger.waiting,
        "events_resent": ledger.resent,
        "events_refused": ledger.refused,
        "acknowledged_per_s": round(ledger.acked / seconds, 1),
        "ack_p50_ms": round(1000 * percentile(ledger.ack_s, 0.5), 1),
        "ack_p95_ms": round(1000 * percentile(ledger.ack_s, 0.95), 1),
        "ack_p99_ms": round(1000 * percentile(ledger.ack_s, 0.99), 1),
        "notices": len(ledger.notices),
        **{f"installations_{status.lower()}": count for status, count in sorted(ledger.ended.items())},
        "commands_answered": ledger.answered.total(),
        "sessions_lost": ledger.losses,
        "connections_refused": ledger.refusals,
        "words_not_the_fleets": ledger.forged,
        "words_too_late": ledger.late,
        "acknowledged_but_never_sent": ledger.unknown_acks,
        "behind_at_worst_ms": round(1000 * ledger.behind_s),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "memory_mb": round(usage.ru_maxrss / 1024),
    }


async def _run(crowd: Crowd, seconds: float | None, tell: Callable[[str], None]) -> Figures:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    began = time.monotonic()
    running = asyncio.create_task(crowd.run())
    stopping = asyncio.create_task(_until(crowd, seconds, stop))
    try:
        while not stopping.done():
            done, _ = await asyncio.wait(
                {running, stopping}, timeout=TOLD_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            if running in done:
                running.result()
            tell(_line(crowd))
        crowd.farewell()
        patience = Patience(SETTLE_S)
        if not await crowd.settle(patience.is_used_up):
            tell(f"{crowd.ledger.waiting} events were not acknowledged within {SETTLE_S:g} s")
        figures = figures_of(crowd, began)
        if crowd.ledger.waiting and not crowd.connected:
            raise ProcessFailedError("no device is connected any more; is the broker there?")
        return figures
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
        crowd.leave()


async def _until(crowd: Crowd, seconds: float | None, stop: asyncio.Event) -> None:
    everybody = asyncio.create_task(crowd.everybody_in.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({everybody, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if seconds is None:
        await stopped
    else:
        await asyncio.wait({stopped}, timeout=seconds)
    everybody.cancel()
    stopped.cancel()


def _line(crowd: Crowd) -> str:
    ledger = crowd.ledger
    return (
        f"{crowd.connected:,} of {len(crowd.devices):,} connected; {ledger.total:,} events sent,"
        f" {ledger.waiting:,} of them not acknowledged yet; {len(ledger.notices):,} releases heard of,"
        f" {ledger.ended.total():,} installations ended; {ledger.losses:,} sessions lost"
    )


def _enrolment_teller(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    told_at = 0.0

    def told(done: int, of: int) -> None:
        nonlocal told_at
        if done == of or time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            tell(f"{done:,} of {of:,} devices are enrolled")

    return told
