"""The last screen of a run: its figures, in words a newcomer understands, beside their targets."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from simulations.figures import AlarmRate, Figures, Promised

__all__ = ["claim_sentences", "draw_summary", "summary_rows"]

WIDE_COLUMNS: Final = 120
"""From here on figures and remarks fit side by side."""


def summary_rows(figures: Figures) -> list[tuple[str, str, str]]:
    """(what, value, remark or target) for each figure, in the order of the story."""
    f = figures
    rows = [
        (
            "devices",
            str(f.devices),
            f"{f.windows:,} windows scored in {f.machine_hours:.1f} hours of machine time",
        ),
        (
            "faults injected / caught / missed",
            f"{f.faults_injected} / {f.faults_caught} / {f.faults_missed}",
            f"caught in {_seconds(f.seconds_to_catch)}, published {f.times_published} time(s)",
        ),
        (
            "false alarms per device-hour, version 1",
            f"{f.false_alarms_at_first.per_device_hour:.2f}",
            _over(f.false_alarms_at_first),
        ),
        (
            "  … after the load changed",
            f"{f.false_alarms_after_change.per_device_hour:.2f}",
            _over(f.false_alarms_after_change),
        ),
        (
            "  … with the version learned together",
            f"{f.false_alarms_after_learning.per_device_hour:.2f}",
            _over(f.false_alarms_after_learning),
        ),
        (
            "alarms in 1000 windows: promised / came",
            _against(f.promised),
            _kept(f.promised),
        ),
        (
            "telemetry sent / raw streaming",
            f"{_size(f.telemetry_bytes)} / {_size(f.raw_bytes)}",
            f"{f.bandwidth_saved_pct:.2f} % saved (target ≥ 99 %)",
        ),
        ("  training and update traffic, apart", f"{_size(f.training_bytes)} + {_size(f.update_bytes)}", ""),
        (
            "inference p50 / p99",
            f"{f.inference_p50_us:.0f} / {f.inference_p99_us:.0f} µs",
            "median and worst device",
        ),
        (
            "memory (PSS): agent / with its learner",
            f"{f.agent_memory_mb:.0f} / {f.agent_and_learner_memory_mb:.0f} MB",
            "largest; targets ≤ 60 / ≤ 180 MB; pages that processes share count by share",
        ),
        (
            "rounds, seconds each",
            f"{f.rounds}, {_seconds(f.seconds_per_round)}",
            f"with the devices' training; {f.devices_per_round or 0:.0f} devices a round",
        ),
        (
            "loss on held-out windows, before → after",
            f"{_number(f.loss_champion)} → {_number(f.loss_candidate)}",
            "federated evaluation",
        ),
        (
            "int8 error against float",
            _number(f.int8_error),
            "mean squared difference ÷ mean square of the output",
        ),
        ("privacy mode", f.privacy_mode, _privacy_remark(f)),
        (
            "privacy ε: aggregator / who sees the release",
            f"{_epsilon(f.epsilon_server)} / {_epsilon(f.epsilon_release)}",
            f"δ = {f.delta or 0:g}"
            if f.epsilon_server is not None
            else "without noise no number limits what sums say",
        ),
        ("time to roll out", _seconds(f.seconds_to_roll_out), "canary → quarter → all"),
        (
            "bad release → full recovery",
            _seconds(f.seconds_to_recover),
            f"target ≤ {30 * f.pace:.0f} s; the fleet runs {f.final_release}",
        ),
    ]
    for name, value in f.comparison.items():
        short = name.replace(" (% of windows)", "")
        rows.append((short, f"{value:.3g} %", "of windows, on rows nobody trained on"))
    if f.process_deaths:
        rows.append(("processes that died and came back", str(f.process_deaths), ""))
    slow = f"on a machine {f.pace:.1f} times slower than a quiet one"
    rows.append(("whole story", _seconds(f.seconds_total), slow if f.pace > 1.5 else ""))
    return rows


def claim_sentences(f: Figures) -> list[tuple[str, str]]:
    """What the release's claim says, sentence by sentence: (of whom, what); nothing where there is no claim."""
    said = (
        ("A curious aggregator learns", f.privacy_curious),
        ("A lying one learns", f.privacy_lying),
        ("Poisoned answers", f.privacy_poisoner),
    )
    return [(who, sentence) for who, sentence in said if sentence]


def draw_summary(figures: Figures, title: str, width: int) -> RenderableType:
    """A panel for a terminal of `width` columns; a narrow one has each remark below its figure."""
    is_wide = width >= WIDE_COLUMNS
    table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
    table.add_column(no_wrap=is_wide)
    table.add_column(justify="right", style="bold", no_wrap=True)
    if is_wide:
        table.add_column()
    for what, value, remark in summary_rows(figures):
        if is_wide:
            table.add_row(what, value, Text(remark, "dim"))
        else:
            table.add_row(Text.assemble(what, (f"\n{remark}" if remark else "", "dim")), value)
    claim = [
        Text.assemble((f" {who}: ", "bold"), (f"{said}.", "dim")) for who, said in claim_sentences(figures)
    ]
    return Panel(
        Group(table, *claim), title=f"[bold]Fedge[/] · {title} · figures of this run", border_style="green"
    )


def _epsilon(value: float | None) -> str:
    return "unlimited" if value is None else f"{value:.3g}"


def _privacy_remark(f: Figures) -> str:
    if not f.secure_sums:
        return "no secure sum: the aggregator saw each device's answer"
    return f"{f.secure_sums} sums under masks, no single answer was seen"


def _against(promised: Promised) -> str:
    if promised.per_1000 is None:
        return "–"
    came = f"{1000 * promised.alarms / promised.windows:.2g}" if promised.windows else "–"
    return f"≤ {promised.per_1000:.3g} / {came}"


def _kept(promised: Promised) -> str:
    if promised.per_1000 is None:
        return "no device promises any: the release's network judges"
    interval = (
        ""
        if promised.high_per_1000 is None
        else f" ({promised.low_per_1000:.2g} to {promised.high_per_1000:.2g})"
    )
    return (
        f"{promised.alarms} in {promised.windows:,} windows{interval} since each device last learnt, true ones among them;"
        f" kept on {promised.kept_on} of {promised.devices} devices"
    )


def _over(rate: AlarmRate) -> str:
    return f"{rate.alarms} alarms in {rate.device_hours:.1f} device-hours; {100 * rate.windows_over_share:.1f} % of windows over threshold"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
