"""What must hold after a soak: nothing lost, doubled, invented or out of order; every device works; memory and traffic bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from agent_world import FAMILY
from fault_laboratory.soak_world import SoakDevice, SoakWorld

from protocol.names import split_release_id

__all__ = ["Verdict", "judge", "stored_anomalies"]

MOST_PSS_BYTES: Final = 60_000_000
MOST_BYTES_PER_HOUR: Final = 1_000_000
MOST_RECOVERY_S: Final = 60.0
"""On a quiet machine."""
_PAGE: Final = 100


@dataclass(kw_only=True)
class Verdict:
    """What was counted, and each invariant that does not hold in one sentence.

    `bytes_per_hour_away` is of the device that sent most while its fleet was away, `sent_away` what that was, by kind of message.
    """

    opened: int = 0
    stored: int = 0
    largest_pss: int = 0
    bytes_per_hour_away: float = 0.0
    sent_away: dict[str, int] = field(default_factory=dict)
    recovery_s: float = 0.0
    violations: list[str] = field(default_factory=list)


def stored_anomalies(world: SoakWorld) -> dict[str, list[dict[str, Any]]]:
    """What the fleet has of each device, in the order in which it came."""
    rows: list[dict[str, Any]] = []
    query: dict[str, str | float] = {"limit": _PAGE}
    while page := world.fleet.get("/v1/anomalies", **query):
        rows += page["items"]
        if not page.get("next_cursor"):
            break
        query["after"] = page["next_cursor"]
    rows.reverse()
    return {device.name: [row for row in rows if row["device"] == device.name] for device in world.devices}


def judge(world: SoakWorld, version: int, verdict: Verdict) -> None:
    """Fill `verdict` with what does not hold in the world as it is now."""
    say = verdict.violations.append
    stored = stored_anomalies(world)
    for device in world.devices:
        opened = device.opened()
        verdict.opened += len(opened)
        verdict.stored += len(stored[device.name])
        _judge_anomalies(device, opened, stored[device.name], verdict)
        _judge_device(world, device, version, verdict)
    verdict.largest_pss = max(device.largest_pss for device in world.devices)
    if verdict.largest_pss > MOST_PSS_BYTES:
        say(f"an agent took {verdict.largest_pss / 1e6:.1f} MB, more than {MOST_PSS_BYTES / 1e6:.0f} MB")
    if verdict.bytes_per_hour_away > MOST_BYTES_PER_HOUR:
        say(
            f"a device whose fleet is away sent {verdict.bytes_per_hour_away / 1e6:.2f} MB an hour: {verdict.sent_away}"
        )
    if verdict.recovery_s > MOST_RECOVERY_S:
        say(f"it took {verdict.recovery_s:.0f} s after the fleet's return until it had everything")


def _judge_anomalies(
    device: SoakDevice, opened: list[str], stored: list[dict[str, Any]], verdict: Verdict
) -> None:
    say, episodes = verdict.violations.append, [row["episode"] for row in stored]
    if doubled := [episode for episode, count in Counter(episodes).items() if count > 1]:
        say(f"{device.name}: stored more than once: {doubled}")
    if lost := [episode for episode in opened if episode not in episodes]:
        say(f"{device.name}: opened and never stored: {lost}")
    # A kill may come between remembering an anomaly and saying so in the log.
    if len(invented := set(episodes) - set(opened)) > device.kills:
        say(f"{device.name}: stored and never opened: {sorted(invented)}")
    places = {row["episode"]: (row["boot_id"], row["sequence"]) for row in stored}
    told = [places[episode] for episode in opened if episode in places]
    boots = [boot for boot, _ in groupby(boot for boot, _ in told)]
    is_ordered = all(
        sequences == sorted(sequences)
        for sequences in ([sequence for boot, sequence in told if boot == wanted] for wanted in set(boots))
    )
    if not is_ordered or len(boots) != len(set(boots)):
        say(f"{device.name}: (boot, sequence) is not the order in which anomalies were opened")


def _judge_device(world: SoakWorld, device: SoakDevice, version: int, verdict: Verdict) -> None:
    say, status = verdict.violations.append, device.status()
    health = status.get("health", {})
    if health.get("state") != "watching":
        say(f"{device.name}: {health.get('state')}, not watching")
    release = health.get("release")
    if release is None or split_release_id(release)[0] != FAMILY or split_release_id(release)[1] > version:
        say(f"{device.name}: runs {release}")
    if problems := status.get("problems"):
        say(f"{device.name}: all is mended, and it still says {problems}")
    seen = world.seen(device)
    if not seen.get("online") or seen.get("release") != release:
        say(
            f"{device.name}: runs {release}; the fleet says online {seen.get('online')}, {seen.get('release')}"
        )
    codes = Counter(world.supervisor.processes[device.process].exit_codes)
    if unexpected := {code: count for code, count in codes.items() if code not in {-9, 2}}:
        say(f"{device.name}: its agent ended by itself: {unexpected}")
