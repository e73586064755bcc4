"""The terminal view of a world while its story is played, and the summary at its end.

On a terminal: a live picture, redrawn four times a second. Elsewhere (CI, a pipe): one line per event, so that logs
stay readable. It draws a `Record` and decides nothing.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import Health
from simulations.record import ChapterState, DeviceSeen, Record, RolloutSeen, ScoreTrace, TrainingSeen

__all__ = ["Screen", "draw_world", "told_link"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_SPARK_WINDOWS: Final = 24
_MARK: Final = {
    ChapterState.AHEAD: ("○", "dim"),
    ChapterState.NOW: ("▶", "bold cyan"),
    ChapterState.DONE: ("✓", "green"),
}


class Screen:
    """Shows a record. Use as a context manager; call `update` as often as the record changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, record: Record) -> None:
        """Draw the record as it stands (on a terminal), or say what is new in it (elsewhere)."""
        if self._live:
            link = Text(told_link(record.sign_in_link), overflow="fold") if record.sign_in_link else Text()
            self._live.update(Group(link, draw_world(record, self._console.size.height)))
        else:
            for line in _news(record):
                if line not in self._said:
                    self._said.add(line)
                    self._console.print(
                        f"{record.now_s:6.1f} s  {line}", highlight=False, markup=False, soft_wrap=True
                    )


def told_link(link: str) -> str:
    """A link into the dashboard, with what it is good for."""
    return f"dashboard, for one browser within five minutes: {link}"


def draw_world(record: Record, height: int = 50) -> RenderableType:
    """The whole picture: the story, the devices, the training run, the rollout, the totals."""
    parts: list[RenderableType] = [_draw_story(record), _draw_devices(record)]
    below = Table.grid(expand=True, padding=(0, 1))
    below.add_column(ratio=1)
    below.add_column(ratio=1)
    below.add_row(_draw_training(record), _draw_rollout(record))
    parts.append(below)
    if height >= 34:
        parts.append(_draw_totals(record))
    return Group(*parts)


def _draw_story(record: Record) -> RenderableType:
    line = Text()
    for chapter in record.chapters:
        mark, style = _MARK[chapter.state]
        line.append(f" {mark} {chapter.letter} ", style)
        if chapter.state is ChapterState.NOW:
            line.append(f"{chapter.title} ", "bold")
    now = record.chapter
    note = Text(f" {now.note}" if now and now.note else " ", "cyan", no_wrap=True, overflow="ellipsis")
    return Panel(
        Group(line, note),
        title=f"[bold]Fedge[/] · {record.title}",
        subtitle=f"{record.now_s:.0f} s",
        border_style="blue",
    )


def _draw_devices(record: Record) -> RenderableType:
    table = Table(expand=True, box=None, padding=(0, 1), header_style="dim")
    for title, justify in (
        ("device", "left"), ("on", "left"), ("state", "left"), ("version", "left"), ("windows", "right"),
        ("score ÷ threshold", "left"), ("over", "right"), ("alarms", "right"), ("in 1000", "right"), ("drift", "right"),
    ):  # fmt: skip
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True)
    faulty = {f.device for f in record.faults if f.ended_s is None}
    for seen in sorted(record.devices.values(), key=lambda d: d.device):
        table.add_row(*_device_cells(seen, record.traces.get(seen.device), has_fault=seen.device in faulty))
    return Panel(table, title="devices", border_style="dim", padding=(0, 0))


def _device_cells(seen: DeviceSeen, trace: ScoreTrace | None, *, has_fault: bool) -> list[RenderableType]:
    version = (seen.release or "-").rpartition("/")[2]
    wanted = (seen.desired_release or "").rpartition("/")[2]
    arrow = f"{version} → {wanted}" if wanted and wanted != version else version
    state, health = seen.state if seen.online else "offline", seen.health
    if health.training_run:
        state = "training"
    elif health.install_step not in {InstallStep.IDLE, InstallStep.COMMITTED}:
        state = health.install_step.lower()
    return [
        Text(seen.device, "bold red" if has_fault else ""),
        Text(seen.hardware, "dim"),
        Text(state, "magenta" if state == "training" else "yellow" if state != "watching" else ""),
        Text(f"v{arrow}", "cyan" if "→" in arrow else ""),
        f"{health.windows:,}",
        _sparkline(trace),
        Text(f"{100 * health.anomaly_rate:.0f} %", "red" if health.anomaly_rate > 0.2 else "dim"),
        Text(str(health.anomalies), "red" if health.anomalies else "dim"),
        _against_promise(health),
        Text(f"{health.drift_score:.2f}", "yellow bold" if health.drifted else "dim"),
    ]


def _against_promise(health: Health) -> Text:
    """Alarms in 1000 windows since the device learnt, against what it promised; red where it was not kept."""
    promised = health.promised_per_1000
    if promised is None or not health.realised_windows:
        return Text("–", "dim")
    is_kept = health.realised_low_per_1000 <= promised
    came = 1000 * health.realised_alarms / health.realised_windows
    return Text(f"{came:.0f} of {promised:.2g}", "dim" if is_kept else "red")


def _sparkline(trace: ScoreTrace | None) -> Text:
    text = Text()
    if trace is None or not len(trace.score):
        return text
    ratios = trace.score[-_SPARK_WINDOWS:] / trace.threshold[-_SPARK_WINDOWS:].clip(1e-12)
    for ratio in ratios:
        level = min(int(ratio * 5), len(_BARS) - 1)
        text.append(_BARS[level], "red" if ratio > 1 else "green")
    return text


def _draw_training(record: Record) -> RenderableType:
    runs = list(record.trainings.values())
    body: RenderableType = Text(
        f"drift: {100 * record.drift_share[-1][1]:.0f} % of devices" if record.drift_share else "no run yet",
        "dim",
    )
    if runs:
        body = _training_body(runs[-1])
    return Panel(
        body, title="learning together (Flower)", border_style="magenta" if runs else "dim", height=8
    )


def _training_body(run: TrainingSeen) -> RenderableType:
    done = len(run.rounds)
    lines: list[RenderableType] = [
        Text(f"{run.run}  {run.state}", "bold"),
        _bar(done, run.planned_rounds, 36),
    ]
    for entry in run.rounds[-4:]:
        joined = entry.get("participants")
        who = len(joined) if isinstance(joined, list) else joined
        seconds = entry.get("seconds")
        lines.append(
            Text(
                f"round {entry.get('number', '?')}: {who} devices"
                + (f", {seconds:.1f} s" if isinstance(seconds, float) else "")
            )
        )
    return Group(*lines)


def _bar(done: int, total: int, width: int) -> RenderableType:
    """A progress bar on a line of its own: alone, rich ends none with a new line."""
    line = Table.grid()
    line.add_row(ProgressBar(total=max(total, 1), completed=done, width=width))
    return line


def _draw_rollout(record: Record) -> RenderableType:
    rollouts = list(record.rollouts.values())
    if not rollouts:
        return Panel(Text("none yet", "dim"), title="rollout", border_style="dim", height=8)
    newest = rollouts[-1]
    lines: list[RenderableType] = [Text(f"{newest.release}  {newest.state}", _rollout_style(newest))]
    for name, state, done, total in newest.groups:
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(f"{name:<8}"),
            _bar(done, total, 20),
            Text(f"{done}/{total} {state.lower()}"),
        )
        lines.append(row)
    if newest.looks:
        group, finding, reason = newest.looks[-1]
        lines.append(Text(f"gates, {group}: {finding} {reason}", "dim", no_wrap=True, overflow="ellipsis"))
    if newest.reason:
        lines.append(Text(newest.reason, "red", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*lines), title="rollout", border_style="cyan", height=8)


def _rollout_style(rollout: RolloutSeen) -> str:
    if "ROLL" in rollout.state:
        return "bold red"
    return "bold green" if rollout.state == "COMPLETED" else "bold"


def _draw_totals(record: Record) -> RenderableType:
    seen = [device.health for device in record.devices.values()]
    raw, sent = sum(d.raw_bytes for d in seen), sum(d.telemetry_bytes for d in seen)
    saved = f"{100 * (1 - sent / raw):.2f} % saved" if raw else "-"
    return Text(
        f" {sum(d.windows for d in seen):,} windows scored · {len(record.alarms)} anomalies stored · "
        f"raw {raw / 1e6:,.0f} MB, sent {sent / 1e6:.2f} MB: {saved}",
        "dim",
    )


def _news(record: Record) -> list[str]:
    lines = [told_link(record.sign_in_link)] if record.sign_in_link else []
    lines += [f"[{c.letter}] {c.title}" for c in record.chapters if c.state is not ChapterState.AHEAD]
    lines += [f"    {c.note}" for c in record.chapters if c.note and c.state is not ChapterState.AHEAD]
    lines += [f"    training {t.run}: {t.state}, {len(t.rounds)} rounds" for t in record.trainings.values()]
    lines += [f"    rollout of {r.release}: {r.state} {r.reason}".rstrip() for r in record.rollouts.values()]
    lines += [f"    process {name} died at {at:.1f} s and is started again" for at, name in record.deaths]
    return lines
