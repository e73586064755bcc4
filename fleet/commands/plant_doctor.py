"""``doctor``: what is well with a plant, what is not, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from fleet.commands.connection import JsonOption
from fleet.commands.printing import print_json, say
from service.plant import PlantOption, find_plant

__all__ = ["doctor"]


def doctor(plant: PlantOption = None, as_json: JsonOption = False) -> None:
    """Look at certificates, clocks, ports, the broker, disk and database; exit status 1 where something is bad. Changes nothing."""
    from fleet.plant.doctor.examination import examine
    from fleet.plant.doctor.findings import Verdict

    found = find_plant(plant)
    findings = []
    for finding in examine(found):
        findings.append(finding)
        if not as_json:
            say(f"{finding.verdict:4}  {finding.matter}: {finding.seen}")
            if finding.remedy:
                say(f"      → {finding.remedy}")
    counts = {verdict: sum(one.verdict is verdict for one in findings) for verdict in Verdict}
    if as_json:
        print_json({"plant": str(found.folder), "findings": [asdict(one) for one in findings]})
    else:
        say(f"{len(findings)} looked at: {counts[Verdict.BAD]} bad, {counts[Verdict.WARN]} to be seen to")
    if counts[Verdict.BAD]:
        raise typer.Exit(1)
