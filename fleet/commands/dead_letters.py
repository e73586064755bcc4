"""``dead-letters``: what devices sent and nobody could take; look at it, replay it after an upgrade, drop it."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import typer

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, LimitOption, asks_fleet
from fleet.commands.printing import print_json, print_rows, say, show_time
from fleet.views.operations import DeadLetterSummary, DeadLetterView, DeadLetterWithPayload
from service.confirmation import YesOption, ask_for_name
from service.errors import ClientError

__all__ = ["dead_letters"]

dead_letters = typer.Typer(
    help="Messages that could not be taken: list, show, replay, drop.", no_args_is_help=True
)

LetterArgument = Annotated[int | None, typer.Argument(min=1, help="One letter; or choose by options")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Of this device")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="e.g. version, malformed, wrong_source")]
AllOption = Annotated[bool, typer.Option("--all", help="Every letter")]


@dead_letters.command("list")
@asks_fleet
def dead_letters_list(
    client: FleetClient,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = 100,
) -> None:
    """Dead letters, newest first."""
    rows = list(
        client.listing(DeadLetterView, "/v1/dead-letters", {"device": device, "reason": reason}, limit)
    )
    summary = client.show(DeadLetterSummary, "/v1/dead-letters/summary")
    print_rows(
        rows,
        f"{len(rows)} of {summary.letters} dead letters; {summary.dropped} older ones made room",
        {
            "id": lambda r: r.id,
            "device": lambda r: r.device,
            "kind": lambda r: r.topic.rpartition("/")[2],
            "boot": lambda r: r.boot_id,
            "sequence": lambda r: r.sequence,
            "times": lambda r: r.times,
            "first": lambda r: show_time(r.first_received),
            "last": lambda r: show_time(r.last_received),
            "bytes": lambda r: r.size_bytes,
            "reason": lambda r: r.reason,
            "why": lambda r: r.message,
        },
        as_json=as_json,
        limit=limit,
    )


@dead_letters.command("show")
@asks_fleet
def dead_letters_show(
    client: FleetClient,
    letter: Annotated[int, typer.Argument(min=1)],
) -> None:
    """One letter as JSON, with what was sent as text where it is one (`text`)."""
    found = client.show(DeadLetterWithPayload, f"/v1/dead-letters/{letter}")
    print_json(
        found.model_dump(mode="json")
        | {"text": base64.b64decode(found.payload).decode("utf-8", "backslashreplace")}
    )


@dead_letters.command("replay")
@asks_fleet
def dead_letters_replay(
    client: FleetClient,
    letter: LetterArgument = None,
    *,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    reason: ReasonOption = None,
    all_of_them: AllOption = False,
) -> None:
    """Judge letters again, after an upgrade of the fleet or a mend; those that are refused again stay."""
    path, chosen = _chosen("replay", letter, device, reason, all_of_them=all_of_them)
    done = _carry_out(client, path, chosen)
    if as_json:
        print_json(done)
    else:
        say(f"{len(done['stored'])} stored, {len(done['refused'])} refused again")


@dead_letters.command("drop")
@asks_fleet
def dead_letters_drop(
    client: FleetClient,
    letter: LetterArgument = None,
    *,
    as_json: JsonOption = False,
    device: DeviceOption = None,
    reason: ReasonOption = None,
    all_of_them: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Drop letters for good."""
    path, chosen = _chosen("drop", letter, device, reason, all_of_them=all_of_them)
    name = device or reason or ("all" if letter is None else str(letter))
    ask_for_name(name, "Dropping dead letters", yes=yes)
    done = _carry_out(client, path, (chosen or {}) | {"confirm": name})
    if as_json:
        print_json(done)
    else:
        say(f"{len(done['dropped'])} dropped")


def _chosen(
    verb: str, letter: int | None, device: str | None, reason: str | None, *, all_of_them: bool
) -> tuple[str, dict[str, Any] | None]:
    """The path and the body of a call for one letter, or for those that the options choose."""
    by_options = device is not None or reason is not None
    if [letter is not None, by_options, all_of_them].count(True) != 1:
        raise ClientError(f"which letters shall it {verb}? Name one, or give --device and --reason, or --all")
    if letter is not None:
        return f"/v1/dead-letters/{letter}:{verb}", None
    return f"/v1/dead-letters:{verb}", {"device": device, "reason": reason, "all": all_of_them}


def _carry_out(client: FleetClient, path: str, chosen: dict[str, Any] | None) -> dict[str, list[int]]:
    """Ask until there are no more: one call takes some hundred letters. Gives the ids by what became of them."""
    done: dict[str, list[int]] = {}
    after, more = 0, True
    while more:
        answer = client.post(path, chosen | {"after": after} if chosen and "all" in chosen else chosen)
        more = answer.pop("more")
        for fate, letters in answer.items():
            done.setdefault(fate, []).extend(letters)
            after = max([after, *letters])
    return done
