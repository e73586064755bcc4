"""``anomalies``: what devices reported, and one of them with the window that made it, drawn here or saved as a file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, LimitOption, SinceOption, UntilOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, say, show_number, show_time
from fleet.views.observations import AnomalyView, AnomalyWithWindow
from fleet.views.releases import ReleaseView
from protocol.errors import TopicError
from protocol.names import split_release_id
from runtime.durable_files import write_durably
from service.errors import ClientError

__all__ = ["anomalies"]


class _ListsByDefault(TyperGroup):
    """``anomalies --open`` is ``anomalies list --open``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


anomalies = typer.Typer(
    cls=_ListsByDefault,
    help="What devices reported: list (also without a word), or show one with its window.",
)


@anomalies.command("list")
@asks_fleet
def anomalies_list(
    client: FleetClient,
    as_json: JsonOption = False,
    device: Annotated[str | None, typer.Option("--device")] = None,
    is_open: Annotated[
        bool | None, typer.Option("--open/--ended", help="Only those that last, or are over")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
) -> None:
    """Anomalies, newest first."""
    query = {
        "device": device,
        "since": since,
        "until": until,
        "open": None if is_open is None else str(is_open).lower(),
    }
    rows = list(client.listing(AnomalyView, "/v1/anomalies", query, limit))
    print_rows(
        rows,
        f"{len(rows)} anomalies",
        {
            "id": lambda r: r.id,
            "received": lambda r: show_time(r.received_at),
            "device": lambda r: r.device,
            "release": lambda r: r.release,
            "score": lambda r: show_number(r.score),
            "threshold": lambda r: show_number(r.threshold),
            "lasted": _show_end,
            "peak": lambda r: r.end and show_number(r.end.peak_score),
            "contributors": lambda r: " ".join(r.contributors),
            "window": lambda r: "withheld by its owner" if r.window_withheld else _show_shape(r.window_shape),
        },
        as_json=as_json,
        limit=limit,
    )


@anomalies.command("show")
@asks_fleet
def anomalies_show(
    client: FleetClient,
    anomaly: Annotated[int, typer.Argument(min=1, help="Its id, as `anomalies` prints it")],
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Save the window there: a name that ends in .csv or .svg")
    ] = None,
) -> None:
    """One anomaly, with the window that made it drawn."""
    # numpy, which the other commands need not wait for
    from fleet.window_pictures import window_csv, window_lines, window_svg

    save = None if out is None else {".csv": window_csv, ".svg": window_svg}.get(out.suffix.lower())
    if out is not None and save is None:
        raise ClientError(
            f"--out {out}: the name must end in .csv (the numbers) or .svg (the drawing, which every browser shows);"
            " PNG would need a library that a fleet has not"
        )
    found = client.show(AnomalyWithWindow, f"/v1/anomalies/{anomaly}")
    features = _features(client, found.release)
    if as_json:
        print_json(found)
    else:
        _say_anomaly(found)
    window = _window_of(found)
    if window is None:
        why = "its owner lets none leave the device" if found.window_withheld else "it came without one"
        if out is not None:
            raise ClientError(f"anomaly {anomaly} has no window to save: {why}")
        if not as_json:
            say(f"window: none, {why}")
        return
    names = tuple(features.get("names") or ())
    if not as_json:
        for line in window_lines(window, names, found.contributors):
            say(line)
    if out is not None and save is not None:
        rate = features.get("sample_rate_hz")
        write_durably(out, save(window, names, found.contributors, rate, f"anomaly {anomaly}"))
        if not as_json:
            say(f"{out}: {len(window)} samples of {window.shape[1]} channels")


def _features(client: FleetClient, release: str) -> dict[str, Any]:
    """What a window of the release holds; empty where the fleet does not say."""
    try:
        family, version = split_release_id(release)
        shown = client.show(ReleaseView, f"/v1/releases/{family}/{version}")
    except (ClientError, TopicError):
        return {}
    found: dict[str, Any] = shown.manifest.get("features") or {}
    return found


def _window_of(found: AnomalyWithWindow) -> Any:
    from fleet.dashboard.charts.windows import read_window

    try:
        content = None if found.window is None else base64.b64decode(found.window, validate=True)
    except ValueError:
        return None
    return read_window(content, found.window_shape)


def _say_anomaly(found: AnomalyWithWindow) -> None:
    say(f"anomaly {found.id} of {found.device}, by {found.release}, received {show_time(found.received_at)}")
    say(f"score {show_number(found.score)} over the threshold {show_number(found.threshold)}")
    say(f"lasted: {_show_end(found) or 'its agent does not tell'}")
    say(f"blamed: {' '.join(found.contributors) or 'nothing'}")


def _show_shape(shape: list[int]) -> str | None:
    return " x ".join(map(str, shape)) or None


def _show_end(anomaly: AnomalyView) -> str | None:
    """How long it lasted; ``open`` while it does; None from an agent that never tells."""
    if (end := anomaly.end) is None:
        return None if anomaly.episode is None else "open"
    return f"{end.lasted_s:.3g} s, {end.windows} windows ({end.reason})"
