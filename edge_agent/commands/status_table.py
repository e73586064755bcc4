"""``fedge-agent status`` for people: the status file as a table."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edge_agent.process_sight import ProcessSight, ProcessState
from edge_agent.status import Status
from protocol.messages.kinds import SettingSource
from protocol.messages.payloads import Health
from runtime.printable import printable

__all__ = ["print_status", "telemetry_words"]

_SHAPES_SHOWN: Final = 3


def print_status(status: Status, sight: ProcessSight) -> None:
    """Print one status; `sight` tells whether the agent lives."""
    told = sight.told(status)
    is_running = sight.state(status) is ProcessState.RUNS
    health = status.health
    rows = [
        ("state", told),
        ("release", f"{health.release or 'none'}{' (on trial)' if status.is_trial else ''}"),
        (
            "windows",
            f"{health.windows} watched, {health.windows_over_threshold} over, {health.anomalies} anomalies, {health.unjudged_windows} not judged",
        ),
        (
            "score",
            f"{_number(status.last_score)} against {_number(status.threshold)}{', ALARM' if status.alarm_open else ''}",
        ),
        ("false alarms", status.promise or "nothing is promised: the release's own network judges"),
        ("scale", _scale_of(health)),
        (
            "set aside",
            f"{health.set_aside_windows} windows of alarms and drift; a person may call them normal",
        ),
        (
            "sight",
            "not measured yet" if health.sight is None else f"{health.sight:.0%} of disturbed windows seen",
        ),
        *((("missing", ", ".join(health.missing)),) if health.missing else ()),
        ("drift", f"{health.drift_score:.2f} of 1{_whereabouts(health)}"),
        *((("unlike the reference", _shapes_of(status)),) if status.drift_shapes else ()),
        (
            "inference",
            f"p50 {health.inference_p50_us:.0f} µs, p99 {health.inference_p99_us:.0f} µs{f' on {status.delegate}' if status.delegate else ''}",
        ),
        ("starts", f"{health.restarts} restarts, {health.crashes} after a crash"),
        ("memory", f"{health.memory_pss_bytes / 1e6:.1f} MB"),
        ("telemetry", telemetry_words(health.telemetry_bytes, health.raw_bytes)),
        ("training, updates", f"{health.training_bytes / 1e3:.1f} kB, {health.update_bytes / 1e3:.1f} kB"),
        (
            "outbox",
            f"{health.outbox_events} waiting, {health.outbox_evicted} given up, {health.outbox_refused} refused by the fleet",
        ),
        *(
            ("parked", f"{parked.kind}, {parked.payload_bytes} bytes: {parked.reason}")
            for parked in status.parked
        ),
        *(
            ()
            if status.sends_windows
            else (("raw windows", "none leaves: withheld by the owner ([privacy] send_windows = false)"),)
        ),
        ("clock", "set" if status.clock_is_set else "not known to be set: no time service keeps it"),
        ("broker", "connected" if status.broker_connected else "not connected"),
        ("learner", status.learner),
        ("install", health.install_step.value),
        *((("repository", status.repository),) if status.repository else ()),
        *(("setting", text) for text in _settings_of(status)),
        *(("command", text) for text in status.commands),
        *(("problem", problem) for problem in status.problems),
    ]
    title = printable(f"{status.device} ({status.tenant}, {status.family})")
    table = Table(title=escape(title), show_header=False)
    for name, value in rows:
        # What a fleet, a sensor or an error said is shown as it is, and does nothing to the terminal.
        is_bad = name == "problem" or (name == "state" and not is_running)
        table.add_row(name, Text(printable(value), "red" if is_bad else ""))
    Console().print(table)


def _whereabouts(health: Health) -> str:
    if not health.drifted:
        return (
            ", called normal where it is: not where its release was fitted" if health.drift_accepted else ""
        )
    if health.drift_severity is None:
        return ", drifting"
    return f", settled {health.drift_severity:.1f} deviations from its reference"


def _shapes_of(status: Status) -> str:
    return "; ".join(
        f"{shape.sensor} PSI {shape.psi:.2f} (chance {shape.psi_by_chance:.2f}), KS {shape.ks:.2f} ({shape.ks_by_chance:.2f})"
        for shape in status.drift_shapes[:_SHAPES_SHOWN]
    )


def _scale_of(health: Health) -> str:
    if health.commissioned_share < 1:
        return f"{health.commissioned_share:.0%} commissioned"
    provisional = ", provisional: this machine wanders" if health.is_provisional else ""
    return f"{health.clipped_share:.2%} of recent values at its end{provisional}"


def _settings_of(status: Status) -> list[str]:
    """Settings of a fleet's reach that are not simply the default."""
    return [
        f"{one.name} = {_number(one.value)}, by the {one.source.value}{f'; refused: {one.refused}' if one.refused else ''}"
        for one in status.settings
        if one.refused or one.source is not SettingSource.DEFAULT
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def telemetry_words(sent: int, raw: int) -> str:
    """Bytes that were `sent`, beside what streaming every raw value would have sent by now; nothing is compared with nothing."""
    if not sent:
        return "nothing sent yet"
    said = f"{sent / 1e3:.1f} kB sent"
    if not raw:
        return f"{said}; no window was seen yet that streaming could have sent"
    if sent > raw:
        return f"{said}, {sent / raw:.1f} times what raw streaming would have by now: a start sends its part at once"
    return f"{said}, {1.0 - sent / raw:.2%} of raw streaming saved"
