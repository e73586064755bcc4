"""``judge`` and ``precision``: say whether an alarm was true, and see whether alarms are as true as they were."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption, asks_fleet
from fleet.commands.printing import print_json, print_table, say, show_number, show_time
from fleet.storage.verdict_tables import Verdict
from fleet.views.observations import AnomalyView, PrecisionSummary, VerdictView

__all__ = ["judge", "precision"]


@asks_fleet
def judge(
    client: FleetClient,
    anomaly: Annotated[int, typer.Argument(min=1, help="id, as `fedge-fleet anomalies` prints it")],
    verdict: Annotated[Verdict, typer.Argument(help="was there something wrong with the machine?")],
    as_json: JsonOption = False,
    note: Annotated[str, typer.Option("--note", help="why, for people")] = "",
) -> None:
    """Say whether an anomaly was a true alarm; again to correct it."""
    record = client.set(
        VerdictView, f"/v1/anomalies/{anomaly}/verdict", {"verdict": verdict.value, "note": note}
    )
    if as_json:
        print_json(record)
        return
    say(f"anomaly {record.anomaly} of {record.release}: {record.verdict}")
    if verdict is Verdict.FALSE_ALARM:
        # a verdict is about one alarm, an acceptance about all that a device set aside: nobody is taken by surprise
        device = client.show(AnomalyView, f"/v1/anomalies/{anomaly}").device
        say(f"its windows stay apart until somebody accepts them: fedge-fleet devices accept-normal {device}")


@asks_fleet
def precision(
    client: FleetClient,
    family: Annotated[str, typer.Option("--family")],
    as_json: JsonOption = False,
) -> None:
    """How many of a family's judged alarms were true, per release, and whether that has become worse."""
    summary = client.show(PrecisionSummary, "/v1/precision/summary", {"family": family})
    if as_json:
        print_json(summary)
        return
    print_table(
        f"{family}: {_said(summary)}",
        ["release", "judged", "precision", "baseline", "recent", "drifted since"],
        (
            [
                r.release,
                str(r.judged),
                show_number(r.precision),
                show_number(r.baseline),
                show_number(r.recent),
                show_time(r.drifted_since),
            ]
            for r in summary.releases
        ),
    )


def _said(summary: PrecisionSummary) -> str:
    """What the verdicts on the release that was judged last say; of few, that they say nothing yet."""
    if summary.drifted:
        return "precision has drifted"
    judged = summary.releases[0].judged if summary.releases else 0
    if not summary.releases or summary.releases[0].baseline is None:
        return f"nothing is known of its precision yet: {judged} of its alarms were judged, and 30 are needed"
    return "precision holds"
