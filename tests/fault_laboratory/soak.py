"""Random kills, cuts, clock steps and bad disks over a real fleet for some minutes; then every invariant is checked.

    python tests/soak.py --seconds 600 --devices 12 [--seed N] [--json] [--keep FOLDER]      (make soak)

After that time everything is mended but the fleet, which stays away: what a device sends meanwhile is measured. It returns, and the time until it has everything is measured. Exit code: 0 every invariant holds, 1 one does not
(the world is kept), 2 the world did not come up. The last line is the figure of `make prove`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from fault_laboratory.soak_chaos import Chaos
from fault_laboratory.soak_checks import Verdict, judge, stored_anomalies
from fault_laboratory.soak_world import SoakWorld

from simulations.errors import SimulationError
from simulations.patience import Patience, measure_pace

__all__ = ["main"]

AWAY_BEFORE_S: Final = 30.0
"""What waited is offered once more before a device grows quiet."""
AWAY_S: Final = 90.0
LOOK_EVERY_S: Final = 0.1
SETTLE_S: Final = 75.0
"""Seconds of a quiet machine after which what is not at the fleet counts as lost."""


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=600.0, help="how long, after everything is up")
    options.add_argument("--devices", type=int, default=12)
    options.add_argument("--seed", type=int, default=None, help="of all that is random; printed")
    options.add_argument(
        "--json", action="store_true", help="print the figures as JSON, and progress on stderr"
    )
    options.add_argument(
        "--keep", type=Path, default=None, help="a new folder for the world, kept afterwards"
    )
    chosen = options.parse_args()
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    home = (chosen.keep or Path(tempfile.mkdtemp(prefix="fedge-soak-"))).absolute()
    screen = Progress(sys.stderr if chosen.json else sys.stdout)
    screen.say(f"soak: seed {seed}, {chosen.devices} devices, {chosen.seconds:.0f} s, in {home}")
    try:
        with SoakWorld(home, chosen.devices) as world:
            world.start(lambda note: screen.say(f"soak: {note}"))
            chaos = Chaos(world, seed)
            verdict = soak(world, chaos, chosen.seconds, screen)
    except (SimulationError, OSError) as error:
        print(f"soak: {error}; the world is kept: {home}", file=sys.stderr)
        return 2
    figures = dataclasses.asdict(verdict) | {
        "seed": seed,
        "devices": chosen.devices,
        "seconds": chosen.seconds,
    }
    if chosen.json:
        print(json.dumps(figures | {"done": chaos.done}))
    else:
        print_table(chaos, verdict)
    if not verdict.violations and chosen.keep is None:
        shutil.rmtree(home, ignore_errors=True)
    held = (
        f"{len(verdict.violations)} invariants do NOT hold, world kept: {home}"
        if verdict.violations
        else "all hold"
    )
    if not chosen.json:
        print(
            f"seed {seed}: {verdict.opened} anomalies on {chosen.devices} devices, {verdict.stored} stored, "
            f"{sum(chaos.done.values())} disturbances, {verdict.largest_pss / 1e6:.0f} MB, "
            f"{verdict.bytes_per_hour_away / 1e6:.2f} MB/h away, back in {verdict.recovery_s:.0f} s: {held}"
        )
    return 1 if verdict.violations else 0


def soak(world: SoakWorld, chaos: Chaos, seconds: float, screen: Progress) -> Verdict:
    """Disturb, measure, mend, wait and judge."""
    verdict = Verdict()
    for now_s, left_s in _turns(world, seconds):
        chaos.turn(now_s)
        screen.show(f"{left_s:.0f} s of chaos left", chaos, world)
    chaos.calm()
    _wait_for_roads(world)
    _measure_absence(world, chaos, screen, verdict)
    verdict.recovery_s = _recover(world, chaos, screen)
    screen.end()
    judge(world, chaos.version, verdict)
    return verdict


def _measure_absence(world: SoakWorld, chaos: Chaos, screen: Progress, verdict: Verdict) -> None:
    """The fleet goes, the broker stays: what the most talkative device then sends, as of an hour."""
    world.supervisor.hold("fleet")
    for _, left_s in _turns(world, AWAY_BEFORE_S):
        screen.show(f"the fleet is away, measuring in {left_s:.0f} s", chaos, world)
    before, began_s = [device.mqtt.sent.copy() for device in world.devices], time.monotonic()
    for _, left_s in _turns(world, AWAY_S):
        screen.show(f"the fleet is away, measured for another {left_s:.0f} s", chaos, world)
    measured_s = time.monotonic() - began_s
    sent = [device.mqtt.sent - was for device, was in zip(world.devices, before, strict=True)]
    most = max(sent, key=lambda one: one.total())
    verdict.bytes_per_hour_away, verdict.sent_away = most.total() * 3600 / measured_s, dict(most)
    world.supervisor.resume("fleet")
    world.supervisor.wait_until(world.fleet.is_up, "the fleet's return")


def _recover(world: SoakWorld, chaos: Chaos, screen: Progress) -> float:
    """Seconds (of a quiet machine) until the fleet has every anomaly, and devices and fleet agree that all is well."""
    began_s, pace, patience = time.monotonic(), measure_pace(), Patience(SETTLE_S)
    while not patience.is_used_up():
        for _ in _turns(world, 1.0):
            screen.show("the fleet is back", chaos, world)
        stored = stored_anomalies(world)
        missing = sum(
            len(set(device.opened()) - {row["episode"] for row in stored[device.name]})
            for device in world.devices
        )
        if not missing and all(is_well(device.status(), world.seen(device)) for device in world.devices):
            break
    return (time.monotonic() - began_s) / pace


def is_well(status: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Whether a device watches, is connected, installs nothing and has no problem, and the fleet knows what it runs."""
    health = status.get("health", {})
    is_calm = health.get("state") == "watching" and health.get("install_step", "IDLE") == "IDLE"
    is_known = bool(seen.get("online")) and seen.get("release") == health.get("release")
    return is_calm and is_known and status.get("broker_connected") is True and not status.get("problems")


def _wait_for_roads(world: SoakWorld) -> None:
    world.supervisor.wait_until(
        lambda: world.fleet.is_up() and all(d.status().get("broker_connected") for d in world.devices),
        "every device to be connected again",
        patience_s=SETTLE_S,
    )


def _turns(world: SoakWorld, seconds: float) -> Iterator[tuple[float, float]]:
    """(monotonic now, seconds left), some ten times a second; what died is started again meanwhile."""
    until_s = time.monotonic() + seconds
    while (now_s := time.monotonic()) < until_s:
        world.supervisor.tick()
        yield now_s, until_s - now_s
        time.sleep(LOOK_EVERY_S)


class Progress:
    """One line that is written over on a terminal, and one every ten seconds elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._next_s = 0.0
        self._pss = 0

    def say(self, line: str) -> None:
        """A line that stays."""
        print(line, file=self._out, flush=True)

    def show(self, what: str, chaos: Chaos, world: SoakWorld) -> None:
        """Where the soak stands."""
        is_terminal = self._out.isatty()
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (1.0 if is_terminal else 10.0)
        opened = sum(len(device.opened()) for device in world.devices)
        done = ", ".join(f"{count} {name}" for name, count in sorted(chaos.done.items()))
        line = f"soak: {what} · {opened} anomalies · {world.sample_memory() / 1e6:.0f} MB · {done}"
        print(
            f"\r\033[K{line}" if is_terminal else line,
            end="" if is_terminal else "\n",
            file=self._out,
            flush=True,
        )

    def end(self) -> None:
        """The line is over."""
        if self._out.isatty():
            self.say("")


def print_table(chaos: Chaos, verdict: Verdict) -> None:
    """What was done, and what holds."""
    for name, count in sorted(chaos.done.items()):
        print(f"  {name:<18}{count:>8}")
    print(f"  {'anomalies opened':<18}{verdict.opened:>8}")
    print(f"  {'anomalies stored':<18}{verdict.stored:>8}")
    for violation in verdict.violations:
        print(f"  DOES NOT HOLD: {violation}")
