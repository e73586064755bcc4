"""A plant's status drawn for a terminal. Pure: what is drawn follows from the status and the height."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fleet.plant.status import PlantStatus
from fleet.rollouts.states import OPEN, RolloutState
from fleet.views.devices import DeviceView
from runtime.printable import printable

__all__ = ["both_times", "draw_status"]

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0

_BESIDE: Final = 14
"""Lines that are not rows of devices or problems."""


def both_times(at: float) -> str:
    """A moment in UTC, and in this machine's zone where that is another."""
    utc, local = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(at).astimezone()
    said = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return said if not local.utcoffset() else f"{said} ({local:%H:%M:%S %Z})"


def draw_status(status: PlantStatus, *, title: str, height: int | None) -> RenderableType:
    """Everything of one look; at most `height` lines, of which devices get what the rest leaves (None: all)."""
    problems = status.problems if height is None else status.problems[: max(3, height // 4)]
    room = None if height is None else max(3, height - _BESIDE - len(problems))
    counts = status.counts
    if not status.is_reached:
        return Group(Text(f"{title}  {both_times(status.at)}", "bold"), _problems(problems, len(problems)))
    head = Text.assemble(
        (title, "bold"), "  ", both_times(status.at), "\n",
        f"{counts.pop('devices')} devices: ", ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none yet",
    )  # fmt: skip
    return Group(
        head,
        _devices(status.devices[:room], status.at),
        *_more(len(status.devices), room),
        _rollouts(status),
        _run(status),
        _anomalies(status),
        _problems(problems, len(status.problems)),
    )


def _devices(devices: Sequence[DeviceView], now: float) -> Table:
    table = Table("device", "is", "does", "release", "alarms", "drift", "last seen", box=None)
    for one in devices:
        state = ("online" if one.online else "OFFLINE") if one.state == "enrolled" else one.state
        release = one.release or "–"
        if one.desired_release not in {None, one.release}:
            release += f" → {one.desired_release}"
        cells = (
            one.id,
            state,
            one.agent_state or "–",
            release,
            str(one.open_alarms or ""),
            "DRIFTED" if one.drifted else "",
            _ago(one.last_seen, now),
        )
        style = "red" if one.open_alarms or (one.state == "enrolled" and not one.online) else ""
        table.add_row(*(escape(printable(cell)) for cell in cells), style="yellow" if one.drifted else style)
    return table


def _more(count: int, room: int | None) -> list[Text]:
    return [Text(f"… and {count - room} more", "dim")] if room is not None and count > room else []


def _rollouts(status: PlantStatus) -> Text:
    lines = []
    for one in status.rollouts:
        stand = ", ".join(f"{number} {state.lower()}" for state, number in one.counts.items() if number)
        # a dynamic one whose groups are over goes on by itself
        later = (
            "; whoever comes later gets it too"
            if one.state is RolloutState.COMPLETED
            and OPEN & {s for s, number in one.counts.items() if number}
            else ""
        )
        lines.append(f"rollout {one.id} of {one.release}: {one.state} ({stand or 'no device yet'}){later}")
    return Text(printable_lines(lines or ["no rollout yet"]))


def _run(status: PlantStatus) -> Text:
    run = status.run
    if run is None:
        return Text("no training run yet")
    rounds = f"{run.get('finished_rounds')}/{run.get('planned_rounds')} rounds"
    return Text(
        printable(
            f"run {run.get('id')} of {run.get('family')}: {run.get('state')}, {rounds}; {run.get('detail')}"
        )
    )


def _anomalies(status: PlantStatus) -> Text:
    if not status.anomalies:
        return Text("no alarm lasts")
    first = ", ".join(
        f"{one.device} since {_ago(one.received_at, status.at)}" for one in status.anomalies[:5]
    )
    return Text(printable(f"{len(status.anomalies)} alarms last: {first}"), "red")


def _problems(problems: Sequence[str], count: int) -> Text:
    if not problems:
        return Text("no problems", "green")
    more = [f"… and {count - len(problems)} more"] if count > len(problems) else []
    return Text(printable_lines([f"! {one}" for one in problems] + more), "yellow")


def printable_lines(lines: Sequence[str]) -> str:
    """Each in one line of characters that are seen."""
    return "\n".join(map(printable, lines))


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return "never"
    age_s = max(0.0, now - at)
    for unit_s, name in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if age_s >= unit_s:
            return f"{age_s / unit_s:.0f} {name} ago"
    return f"{age_s:.0f} s ago"
