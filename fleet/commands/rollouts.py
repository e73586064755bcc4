"""``rollouts``: create, watch and steer rollouts over the fleet's HTTPS API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fleet.changes.change import ChangeKind
from fleet.client.client import FleetClient
from fleet.commands.connection import IfMatchOption, JsonOption, KeyOption, LimitOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, print_table, say, show_time
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.states import RolloutState, Verb
from fleet.views.previews import Preview, PreviewGroup
from fleet.views.rollouts import (
    ExecutionView,
    GroupView,
    RolloutSummary,
    RolloutView,
    ShadowView,
    TimelineLine,
)
from runtime.printable import printable_json
from runtime.settings import read_settings
from service.client import new_key
from service.confirmation import YesOption, ask_for_name
from service.errors import ClientError

__all__ = ["rollouts"]

rollouts = typer.Typer(help="Rollouts: create, preview, list, show, steer.", no_args_is_help=True)

PlanArgument = Annotated[
    Path | None, typer.Argument(help="TOML file with the plan (docs/fleet.md); or use the options")
]
ReleaseOption = Annotated[str | None, typer.Option("--release", help="family/version")]
QueryOption = Annotated[str, typer.Option("--query", "-q", help="e.g. 'hardware==rpi4 and site!=lab'")]
GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        help="cumulative percentage[:soak in seconds] or count=devices[:soak], repeat; default 5:3600 25:3600 100:3600",
    ),
]
RolloutArgument = Annotated[str, typer.Argument(help="Its id, e.g. ro-4f1c0a7be2d95386")]

UNSUCCESSFUL = frozenset({"FAILED", "REJECTED", "TIMED_OUT"})
FAILURES_SHOWN = 10
"""A bad release fails everywhere for one reason; ten lines show it and leave the timeline in sight."""

OVER = frozenset({RolloutState.COMPLETED, RolloutState.CANCELED, RolloutState.ROLLED_BACK})

MOST_DEVICES = 10_000
"""Of one group, in a table for people."""


@rollouts.command("create")
@asks_fleet
def create(
    client: FleetClient,
    plan: PlanArgument = None,
    release: ReleaseOption = None,
    query: QueryOption = "",
    group: GroupOption = None,
    start: Annotated[
        bool, typer.Option("--start", help="Start it at once; where that is refused, nothing is created")
    ] = False,
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a rollout from a plan file, or of --release with --group. With the key of a preview: with exactly its groups."""
    body = _read_plan(plan, release, query, group)
    path = f"/v1/rollouts{'?start=true' if start else ''}"
    _print_rollout(client.ask(RolloutView, path, body, key=idempotency_key or new_key()), as_json=as_json)


@rollouts.command("preview")
@asks_fleet
def preview(
    client: FleetClient,
    plan: PlanArgument = None,
    release: ReleaseOption = None,
    query: QueryOption = "",
    group: GroupOption = None,
    idempotency_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """The devices that a plan would reach, and what its gates would see; nothing is changed."""
    body = _read_plan(plan, release, query, group)
    found = client.ask(Preview, "/v1/rollouts:preview", body, key=idempotency_key)
    if as_json:
        print_json(found)
        return
    print_table(
        f"{found.release} would reach {found.devices} devices; {len(found.already_running)} run it already",
        ["group", "name", "up to", "devices"],
        ([g.number, g.name, _show_end(g), ", ".join(g.devices)] for g in found.groups),
    )
    if found.power.lines:
        say("Of releases with so much harm the gates would stop, by the end of the soak:")
    for sentence in found.power.words:
        say(f"  {sentence}")
    say(f"exactly these groups: rollouts create … --idempotency-key {found.idempotency_key}")


@rollouts.command("list")
@asks_fleet
def index(
    client: FleetClient,
    as_json: JsonOption = False,
    state: Annotated[str | None, typer.Option("--state", help="e.g. RUNNING")] = None,
    limit: LimitOption = 50,
) -> None:
    """Rollouts, newest first."""
    rows = list(client.listing(RolloutSummary, "/v1/rollouts", {"state": state}, limit))
    print_rows(
        rows,
        f"{len(rows)} rollouts",
        {
            "rollout": lambda r: r.id,
            "name": lambda r: r.name,
            "release": lambda r: r.release,
            "state": lambda r: r.state,
            "since": lambda r: show_time(r.since),
            "devices": lambda r: _show_counts(r.counts),
            "created by": lambda r: r.created_by,
        },
        as_json=as_json,
        limit=limit,
    )


@rollouts.command("show")
@asks_fleet
def show(
    client: FleetClient,
    rollout: RolloutArgument,
    as_json: JsonOption = False,
) -> None:
    """One rollout: its groups and what happened to it."""
    view = client.show(RolloutView, f"/v1/rollouts/{rollout}")
    _print_rollout(view, as_json=as_json)


@rollouts.command("shadows")
@asks_fleet
def shadows(
    client: FleetClient,
    rollout: RolloutArgument,
    as_json: JsonOption = False,
) -> None:
    """What came of the release beside the one before it, on the same live windows of each device, the refused first."""
    groups = client.show(RolloutView, f"/v1/rollouts/{rollout}").groups
    found = [
        (execution.device, execution.shadow)
        for group in groups
        for execution in client.listing(
            ExecutionView, f"/v1/rollouts/{rollout}/groups/{group.number}/executions", {}, MOST_DEVICES
        )
        if execution.shadow is not None
    ]
    found.sort(key=lambda one: (one[1].outcome != "refused", one[0]))
    if as_json:
        print_json([{"device": device, **shadow.model_dump(mode="json")} for device, shadow in found])
        return
    print_table(
        f"Beside the release before, on {len(found)} devices",
        [
            "device",
            "outcome",
            "windows",
            "over before/now",
            "extra",
            "seen before/now",
            "µs before/now",
            "why",
        ],
        ([device, *_shadow_cells(shadow)] for device, shadow in found),
    )


def _shadow_cells(shadow: ShadowView) -> list[object]:
    return [
        shadow.outcome,
        shadow.windows,
        f"{shadow.champion_over}/{shadow.candidate_over}",
        f"{shadow.extra_share_low:.0%} to {shadow.extra_share_high:.0%}",
        f"{shadow.champion_seen}/{shadow.candidate_seen} of {shadow.probes}",
        f"{shadow.champion_latency_us:.0f}/{shadow.candidate_latency_us:.0f}",
        shadow.note,
    ]


def _add_verb(verb: Verb, help_text: str) -> None:
    @asks_fleet
    def command(
        client: FleetClient,
        rollout: RolloutArgument,
        as_json: JsonOption = False,
        if_match: IfMatchOption = None,
    ) -> None:
        _say(client, verb, rollout, if_match, as_json=as_json)

    rollouts.command(verb.value, help=help_text)(command)


def _say(
    client: FleetClient,
    verb: Verb,
    rollout: str,
    if_match: str | None,
    *,
    as_json: bool,
    rollback_to: str | None = None,
) -> None:
    body = {"confirm": rollout, "rollback_to": rollback_to}
    view = client.ask(RolloutView, f"/v1/rollouts/{rollout}:{verb.value}", body, if_match=if_match)
    _print_rollout(view, as_json=as_json)


@rollouts.command("rollback")
@asks_fleet
def rollback(
    client: FleetClient,
    rollout: RolloutArgument,
    as_json: JsonOption = False,
    yes: YesOption = False,
    if_match: IfMatchOption = None,
    to: Annotated[
        str | None, typer.Option("--to", help="family/version for all, over what the plan says")
    ] = None,
) -> None:
    """Give every device back what it ran, and withdraw the release."""
    ask_for_name(rollout, f"Rolling back {rollout}, which withdraws its release,", yes=yes)
    _say(client, Verb.ROLLBACK, rollout, if_match, as_json=as_json, rollback_to=to)


@rollouts.command("watch")
@asks_fleet
def watch(client: FleetClient, rollout: RolloutArgument, as_json: JsonOption = False) -> None:
    """Print what happens to a rollout until it is over; status 1 where it did not complete."""
    state = ""
    for change in client.events("rollout", rollout):
        if change.kind is ChangeKind.SKIPPED:  # from here on nothing is missed: where does it stand?
            view = client.show(RolloutView, f"/v1/rollouts/{rollout}")
            state = str(view.state)
            line = [show_time(view.since), "rollout", state, view.waiting_for or view.reason]
        else:
            what = change.what if change.group is None else f"group {change.group}"
            state = change.state if change.what == "rollout" else state
            line = [show_time(change.at), what, change.state, change.reason]
        if as_json:
            print(printable_json(msgspec.json.encode(change).decode()), flush=True)
        else:
            say("  ".join(str(part) for part in line if part))
        if state in OVER:
            break
    if state != RolloutState.COMPLETED:
        raise typer.Exit(1)


_add_verb(Verb.APPROVE, "Approve a rollout that someone else created.")
_add_verb(Verb.START, "Give the release to the first group.")
_add_verb(Verb.PAUSE, "Give the release to nobody else until resumed.")
_add_verb(Verb.RESUME, "Go on after a pause.")
_add_verb(Verb.CANCEL, "Stop; who runs the release keeps it, who has not finished goes back.")
_add_verb(Verb.RETRY_FAILED, "Give the release once more to devices that failed or timed out.")
_add_verb(Verb.TRIGGER_NEXT_GROUP, "Do not wait for the present group.")


def _read_plan(
    plan: Path | None, release: str | None, query: str, groups: list[str] | None
) -> dict[str, Any]:
    if (plan is None) == (release is None):
        raise ClientError(
            "what shall be rolled out? Give a plan file, or --release family/version (not both)"
        )
    if plan is None:
        body = {"name": f"{release} by hand", "release": release, "target_query": query}
        return body | ({"groups": [_read_group(text) for text in groups]} if groups else {})
    if query or groups:
        raise ClientError(
            "--query and --group go with --release; a plan file names its own target_query and groups"
        )
    asked: dict[str, Any] = msgspec.to_builtins(read_settings(plan, RolloutPlan))
    return asked


def _read_group(text: str) -> dict[str, float]:
    end, _, soak = text.partition(":")
    count = end.removeprefix("count=")
    try:
        ends: dict[str, float] = {"percentage": float(end)} if count == end else {"count": int(count)}
        return ends | {"soak_s": float(soak or 0)}
    except ValueError:
        raise ClientError(
            f"--group {text!r} is not percentage[:soak in seconds], e.g. 5:3600, nor count=devices[:soak], e.g. count=5:3600"
        ) from None


def _show_end(group: GroupView | PreviewGroup) -> str:
    return f"{group.count} devices" if group.percentage is None else f"{group.percentage:g} %"


def _print_rollout(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    print_table(
        f"{view.id}  {view.release}  {view.state}",
        ["group", "name", "up to", "state", "since", "devices", "reason"],
        (
            [
                g.number,
                g.name,
                _show_end(g),
                g.state,
                show_time(g.since),
                _show_counts(g.counts),
                g.reason,
            ]
            for g in view.groups
        ),
    )
    if failures := _failures(view.timeline):
        print_table(
            f"Why devices failed (the last {len(failures)})",
            ["time", "device", "group", "state", "reason"],
            ([show_time(line.at), line.device, line.group, line.state, line.reason] for line in failures),
        )
    print_table(
        "Timeline (all of each device: --json)",
        ["time", "what", "from", "to", "by", "reason"],
        (
            [
                show_time(line.at),
                line.subject if line.group is None else f"group {line.group}",
                line.was,
                line.state,
                line.actor,
                line.reason,
            ]
            for line in view.timeline
            if line.subject != "device"
        ),
    )
    if view.waiting_for:
        say(f"It waits for: {view.waiting_for}")
    if view.verbs:
        say(f"It obeys: {', '.join(view.verbs)}")


def _failures(timeline: list[TimelineLine]) -> list[TimelineLine]:
    """The latest lines of devices that did not take the release, oldest first: what a person mends first."""
    return [line for line in timeline if line.subject == "device" and line.state in UNSUCCESSFUL][
        -FAILURES_SHOWN:
    ]


def _show_counts(counts: dict[str, int]) -> str:
    return " ".join(f"{state.lower()}={count}" for state, count in sorted(counts.items()))
