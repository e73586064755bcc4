"""`make mutants`: try a seeded sample of mutants of each area that guards people, and say which of them no test noticed.

Resumable: every outcome is kept in `.mutants/` and asked again only when the mutated file has changed or, for a survivor, the
area's tests have. `--fresh` forgets them. The report is `.mutants/report.md`; the exit code is 1 where an area kills fewer than
nine of ten. Why cosmic-ray's operators and our own runner: docs/decisions/0012.
"""

import argparse
import gc
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
for library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from areas import AREAS, AT_IMPORT, Area  # noqa: E402 - after the path and the threads are set
from reach import Reach, ReachFile, tests_for  # noqa: E402
from sample import Mutant, sample  # noqa: E402
from trial import Trial, preload, record  # noqa: E402

KILLED_SHARE = 0.9
STATE = Path(".mutants")


@dataclass(frozen=True)
class Budget:
    """What the run may cost: mutants an area, children at a time, seconds of tests (as measured without mutants) a mutant."""

    count: int
    jobs: int
    tests_s: float


class Outcomes:
    """The kept outcomes, a JSON line each; the last line of a mutant counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._kept = {row["mutant"]: row for row in rows}

    def known(self, mutant: Mutant, tests_key: str) -> str | None:
        """The outcome, if it still stands: a kill for this source, a survival for this source and these tests."""
        row = self._kept.get(_identity(mutant))
        return row["outcome"] if row and (row["outcome"] != "survived" or row["tests"] == tests_key) else None

    def keep(self, mutant: Mutant, tests_key: str, outcome: str) -> None:
        """Append one outcome."""
        row = {"mutant": _identity(mutant), "tests": tests_key, "outcome": outcome}
        self._kept[row["mutant"]] = row
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _identity(mutant: Mutant) -> str:
    source = hashlib.sha256(mutant.source.encode()).hexdigest()[:16]
    return f"{mutant.path}:{mutant.line} {mutant.operator.removeprefix('core/')} {source}"


def files(globs: tuple[str, ...]) -> list[Path]:
    """The files of an area's globs.

    Raises:
        SystemExit: A glob matches nothing: something was renamed and the table of areas was forgotten.
    """
    found = []
    for glob in globs:
        matched = sorted(path for path in Path().glob(glob) if path.name != "__init__.py")
        if not matched:
            sys.exit(
                f"tests/mutants/areas.py: {glob!r} matches no file; a renamed module must be renamed there too"
            )
        found += [path for path in matched if path not in found]
    return found


def reach_of(area: Area, kept: ReachFile) -> dict[str, Reach]:
    """What the area's tests reach, run again where the kept run is stale."""
    tests = files((*area.tests, *AT_IMPORT))
    stale = kept.stale(tests)
    if stale:
        began = time.monotonic()
        reached, failed, modules = record(stale, STATE / f"{area.name}.log")
        for test in sorted(failed):
            _say(f"  not counted, it does not pass without mutants: {test}")
        kept.keep(stale, reached)
        (STATE / f"{area.name}.modules").write_text("\n".join(modules))
        _say(f"  {len(reached)} tests of {len(stale)} files mapped in {time.monotonic() - began:.0f} s")
    preload((STATE / f"{area.name}.modules").read_text().split())
    return kept.reached(tests)


def try_area(
    area: Area, seed: int, budget: Budget, outcomes: Outcomes, only: str
) -> list[tuple[Mutant, str]]:
    """Try the area's sample; return each mutant with its outcome."""
    _say(f"{area.name}:")
    reached = reach_of(area, ReachFile(STATE / f"{area.name}.reach.json"))
    tests_key = hashlib.sha256(
        b"".join(path.read_bytes() for path in files((*area.tests, *AT_IMPORT)))
    ).hexdigest()[:16]
    mutants = sample(
        [path for path in files(area.code) if only in str(path)],
        count=budget.count,
        seed=f"{seed} {area.name}",
    )
    results: list[tuple[Mutant, str]] = []
    waiting: list[tuple[Mutant, list[str]]] = []
    for mutant in mutants:
        tests = tests_for(mutant.path, mutant.line, reached, budget_s=budget.tests_s, at_import=AT_IMPORT)
        known = outcomes.known(mutant, tests_key) if tests else "survived"
        if known:
            results.append((mutant, known))
        else:
            waiting.append((mutant, tests))
    gc.freeze()
    began = time.monotonic()
    _check_that_no_mutant_survives(area, waiting, reached)
    running: dict[Trial, Mutant] = {}
    try:
        while waiting or running:
            while waiting and len(running) < budget.jobs:
                mutant, tests = waiting.pop()
                seconds = sum(reached[test].seconds for test in tests)
                running[Trial(mutant.path, mutant.source, tests, tests_s=seconds)] = mutant
            for trial, mutant in list(running.items()):
                outcome = trial.outcome()
                if outcome:
                    del running[trial]
                    results.append((mutant, outcome))
                    outcomes.keep(mutant, tests_key, outcome)
            time.sleep(0.01)
    finally:
        for trial in running:
            trial.end()
    survived = sum(outcome == "survived" for _, outcome in results)
    tried = len(results)
    share = f"{(tried - survived) / tried:.1%}" if tried else "nothing to mutate"
    _say(f"  {tried - survived} of {tried} killed ({share}), {time.monotonic() - began:.0f} s")
    return results


def _check_that_no_mutant_survives(
    area: Area, waiting: list[tuple[Mutant, list[str]]], reached: dict[str, Reach]
) -> None:
    """All chosen tests on the real code, under the conditions of a trial: whatever fails here would kill every mutant."""
    tests = list(dict.fromkeys(test for _, chosen in waiting for test in chosen))
    if not tests:
        return
    real, log = waiting[0][0].path, STATE / f"{area.name}.log"
    seconds = sum(reached[test].seconds for test in tests)
    if Trial(real, Path(real).read_text(), tests, tests_s=seconds, output=log).wait() != "survived":
        sys.exit(
            f"the tests of {area.name} fail on the real code when run as trials are; see the end of {log}"
        )


def report(results: dict[str, list[tuple[Mutant, str]]], seed: int) -> str:
    """The report: a table of the areas, then every survivor with its change."""
    lines = [f"# Mutants, seed {seed}", "", "| area | mutants | killed | share |", "|---|---|---|---|"]
    for area, rows in results.items():
        killed = sum(outcome != "survived" for _, outcome in rows)
        lines.append(f"| {area} | {len(rows)} | {killed} | {killed / max(1, len(rows)):.1%} |")
    for area, rows in results.items():
        survivors = sorted(
            (mutant for mutant, outcome in rows if outcome == "survived"),
            key=lambda each: (each.path, each.line),
        )
        lines += ["", f"## Survivors in {area}: {len(survivors)}", ""]
        for mutant in survivors:
            lines += [
                f"`{mutant.path}:{mutant.line}` {mutant.operator.removeprefix('core/')}",
                "",
                "```diff",
                mutant.change,
                "```",
                "",
            ]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Parse the command line, try the areas, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--area", action="append", choices=[area.name for area in AREAS], help="only these areas"
    )
    parser.add_argument("--only", default="", help="only files whose path contains this text")
    parser.add_argument("--count", type=int, default=300, help="mutants an area (300)")
    parser.add_argument("--seed", type=int, default=8, help="which sample (8)")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time (2)")
    parser.add_argument(
        "--tests-s",
        type=float,
        default=20.0,
        help="seconds of tests a mutant, as they take without mutants (20)",
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; what was found is kept, the next run goes on"))
    STATE.mkdir(exist_ok=True)
    if arguments.fresh:
        (STATE / "outcomes.jsonl").unlink(missing_ok=True)
    outcomes = Outcomes(STATE / "outcomes.jsonl")
    budget = Budget(arguments.count, arguments.jobs, arguments.tests_s)
    areas = [area for area in AREAS if not arguments.area or area.name in arguments.area]
    results = {area.name: try_area(area, arguments.seed, budget, outcomes, arguments.only) for area in areas}
    (STATE / "report.md").write_text(report(results, arguments.seed))
    _say(f"survivors: {STATE / 'report.md'}")
    killed = {name: sum(outcome != "survived" for _, outcome in rows) for name, rows in results.items()}
    shares = {name: killed[name] / max(1, len(rows)) for name, rows in results.items()}
    worst = min(shares, key=shares.__getitem__)
    tried = sum(map(len, results.values()))
    _say(
        f"{sum(killed.values())} of {tried} mutants killed, {shares[worst]:.1%} in {worst} at worst, seed {arguments.seed}"
    )
    return 0 if shares[worst] >= KILLED_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
