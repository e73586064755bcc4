"""The HTML report of a run and its JSON: one self-contained file each, no script, no network.

Plots are inline SVG drawn by matplotlib; the table and the JSON hold the same figures as the last screen.
"""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from runtime.durable_files import write_durably
from simulations.figures import Figures
from simulations.record import Record, RolloutSeen
from simulations.summary import claim_sentences, summary_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["write_json", "write_report"]

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1c2733}
h1{margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid #dde3ea}
p.lead{color:#546170;margin-top:.3rem}table{border-collapse:collapse;width:100%}
td,th{padding:.35rem .6rem;border-bottom:1px solid #eef1f4;text-align:left;vertical-align:top}
td.value{font-weight:600;white-space:nowrap}td.remark{color:#546170}svg{width:100%;height:auto}
"""


def write_json(path: Path, record: Record, figures: Figures) -> None:
    """Write the figures and the story's times as JSON, in one durable step."""
    document = {
        "title": record.title,
        "figures": asdict(figures),
        "chapters": [
            {"letter": c.letter, "title": c.title, "began_s": c.began_s, "ended_s": c.ended_s, "note": c.note}
            for c in record.chapters
        ],
        "training_runs": [
            {
                "run": t.run,
                "state": t.state,
                "rounds": t.rounds,
                "evaluation": t.evaluation,
                "release": t.release,
            }
            for t in record.trainings.values()
        ],
        "rollouts": [
            {
                "id": r.rollout,
                "release": r.release,
                "state": r.state,
                "looks": r.looks,
                "timeline": r.timeline,
            }
            for r in record.rollouts.values()
        ],
    }
    _write(path, json.dumps(document, indent=2, default=_plain) + "\n")


def write_report(path: Path, record: Record, figures: Figures) -> None:
    """Write the self-contained HTML report."""
    rows = "\n".join(
        f'<tr><td>{html.escape(a.strip())}</td><td class="value">{html.escape(b)}</td><td class="remark">{html.escape(c)}</td></tr>'
        for a, b, c in (
            *summary_rows(figures),
            *((who, "", f"{said}.") for who, said in claim_sentences(figures)),
        )
    )
    story = "\n".join(
        f"<tr><td>{c.letter}</td><td>{html.escape(c.title)}</td><td class='value'>{c.ended_s - c.began_s:.1f} s</td>"
        f"<td class='remark'>{html.escape(c.note)}</td></tr>"
        for c in record.chapters
    )
    plots = [
        (
            "Score over time, per device",
            "Each window's anomaly score ÷ its threshold; above 1 is over. Orange: version 1, green: 2, red: 3. Shaded: an injected fault.",
            _plot_scores(record),
        ),
        (
            "Drift",
            "Share of devices whose world has left their reference, as the fleet saw it.",
            _plot_drift(record),
        ),
        (
            "Rounds of training",
            "Devices in the sum of each round, and how long it took. What a single device lost or learnt nobody sees.",
            _plot_rounds(record),
        ),
        ("Rollouts", "When each group of each rollout ran; red is a rollback.", _plot_rollouts(record)),
    ]
    sections = "\n".join(f"<h2>{t}</h2><p class='lead'>{d}</p>{svg}" for t, d, svg in plots)
    _write(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Fedge · {html.escape(record.title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(record.title)}</h1><p class=lead>{html.escape(record.exit_reason)}</p>"
        f"<h2>Figures</h2><table>{rows}</table><h2>The story</h2><table>{story}</table>{sections}</html>\n",
    )


def _new_plot(width: float, height: float) -> Plot:
    from matplotlib.figure import Figure  # drawn once, at the end: keeps the live view quick to start

    return Figure(figsize=(width, height), layout="constrained")


def _svg(plot: Plot) -> str:
    out = io.StringIO()
    plot.savefig(out, format="svg", metadata={"Date": None})
    return re.sub(r"(?s)^.*?(?=<svg)", "", out.getvalue())


def _plot_scores(record: Record) -> str:
    names = sorted(record.traces)
    if not names:
        return "<p>No windows were scored.</p>"
    columns = 3
    rows = -(-len(names) // columns)
    plot = _new_plot(12, 1.7 * rows)
    axes = np.atleast_1d(plot.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    for axis, name in zip(axes, names, strict=False):
        trace = record.traces[name]
        ratio = np.clip(trace.score / np.maximum(trace.threshold, 1e-12), 1e-2, 1e2)
        for version in sorted(set(trace.release.tolist())):
            chosen = trace.release == version
            axis.semilogy(
                trace.at_s[chosen],
                ratio[chosen],
                ".",
                markersize=1.6,
                color=f"C{version % 10}",
                rasterized=False,
            )
        axis.axhline(1, color="#999", linewidth=0.8)
        for fault in record.faults:
            if fault.device == name:
                axis.axvspan(fault.at_s, fault.ended_s or record.now_s, color="#fdd", zorder=0)
        axis.set_title(name, fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return _svg(plot)


def _plot_drift(record: Record) -> str:
    plot = _new_plot(12, 2.4)
    axis = plot.subplots()
    if record.drift_share:
        times, shares = zip(*record.drift_share, strict=True)
        axis.fill_between(times, [100 * s for s in shares], step="post", alpha=0.4, color="C1")
    axis.set_ylim(0, 100)
    axis.set_ylabel("% of devices")
    axis.set_xlabel("s")
    for chapter in record.chapters:
        axis.axvline(chapter.began_s, color="#bbb", linewidth=0.7)
        axis.text(chapter.began_s, 101, chapter.letter, fontsize=8)
    return _svg(plot)


def _plot_rounds(record: Record) -> str:
    rounds = [r for t in record.trainings.values() for r in t.rounds if not r.get("void")]
    if not rounds:
        return "<p>No round was run.</p>"
    plot = _new_plot(12, 2.6)
    axis = plot.subplots()
    number = range(1, len(rounds) + 1)
    axis.bar(number, [len(r.get("participants", ())) for r in rounds], color="C0", alpha=0.5)  # type: ignore[arg-type] # JSON of the API
    axis.set_xticks(list(number))
    axis.set_xlabel("round")
    axis.set_ylabel("devices")
    clock = axis.twinx()
    clock.plot(number, [float(r.get("seconds", 0.0)) for r in rounds], "o-", color="C1")  # type: ignore[arg-type] # the same
    clock.set_ylim(bottom=0)
    clock.set_ylabel("s")
    return _svg(plot)


def _plot_rollouts(record: Record) -> str:
    if not record.rollouts:
        return "<p>No rollout was run.</p>"
    bars = [bar for rollout in record.rollouts.values() for bar in _group_bars(rollout, record)]
    plot = _new_plot(12, 0.8 + 0.34 * len(bars))
    axis = plot.subplots()
    for row, (label, began, ended, is_bad) in enumerate(bars):
        axis.barh(row, max(ended - began, 0.2), left=began, color="#d66" if is_bad else "#6a6", height=0.6)
        axis.text(max(ended, began + 0.2), row, f"  {label}", va="center", fontsize=9)
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.set_xlim(0, record.now_s * 1.3)
    axis.set_xlabel("s")
    return _svg(plot) + _list_looks(record)


def _list_looks(record: Record) -> str:
    """What the gates saw, in their own words."""
    said = [
        f"<li>{html.escape(f'{rollout.release}, {group}: {finding} {reason}')}</li>"
        for rollout in record.rollouts.values()
        for group, finding, reason in rollout.looks
    ]
    return f"<p>What the gates saw:</p><ul>{''.join(said)}</ul>" if said else ""


def _group_bars(rollout: RolloutSeen, record: Record) -> list[tuple[str, float, float, bool]]:
    """(label, began, ended, failed) of each group that was started, and of the way back."""
    bars = []
    for number, (name, state, *_) in enumerate(rollout.groups):
        lines = [e for e in rollout.timeline if e["subject"] == "group" and e["group"] == number]
        times = [record.since_epoch(e["at"]) for e in lines if e["state"] != "SCHEDULED"]
        if times:
            bars.append(
                (f"{rollout.release} {name}: {state.lower()}", times[0], times[-1], state == "FAILED")
            )
    if rollout.recovered_s is not None and bars:
        bars.append((f"{rollout.release} undone everywhere", bars[-1][2], rollout.recovered_s, True))
    return bars


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode())
