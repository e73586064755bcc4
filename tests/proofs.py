"""Proves what takes longer than a test may, step by step, and writes down what was found.

    python tests/proofs.py [STEP ...] [--again]          (make prove)

A step is a program whose exit code 0 means proved and whose last line is its figure. It is known in `docs/proofs.md`, which
this program writes: step, commit, date, time taken, figure. A step that was proved at the present commit is not run again,
so an interrupted proof goes on where it stopped. The present commit is the last one that changed anything but documents; with
changes that are not committed every step runs, and its row says so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mutants.areas import AREAS

ROOT: Final = Path(__file__).resolve().parents[1]
PROOFS: Final = ROOT / "docs" / "proofs.md"
HEAD: Final = """# Proofs

What takes longer than `make test` may, and when it last held: one row a step, the latest run. `make prove` writes this
page. The commit is the last one that changed anything but documents; `+` means with changes that were not committed.

| step | what it shows | commit | date | took | figure |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Step:
    """Something to prove: `command` follows this Python, in the checkout."""

    name: str
    shows: str
    command: tuple[str, ...]


STEPS: Final = (
    Step("edge", "a device needs the edge extra alone", ("tests/edge_environment/prove.py",)),
    Step("fleet", "the fleet serves from its own extra", ("tests/edge_environment/prove_fleet.py",)),
    Step(
        "tflite-runtime",
        "the models run under tflite-runtime 2.14 and numpy 1.26",
        ("tests/edge_environment/prove_tflite_runtime.py",),
    ),
    Step("arm64", "the same numbers on emulated arm64 (root)", ("tests/edge_environment/prove_arm64.py",)),
    Step(
        "long",
        "the tests that are too long for make test",
        ("-m", "pytest", "-q", "-m", "long", "tests"),
    ),
    Step(
        "fuzz",
        "spoilt input of every kind is refused by whoever reads it, in its own words, soon and in little memory",
        ("-W", "ignore", "tests/fuzz/fuzzing.py", "--seconds", "900"),
    ),
    Step(
        "privacy-audit",
        "guesses prove less than is claimed, voids included, and would notice a wrong account or too little noise",
        ("tests/aggregator/prove_privacy_audit.py",),
    ),
    Step(
        "differential",
        "nothing that leaves a device in a training run tells two windows apart, whatever is asked",
        ("tests/attacks/differential.py", "--questions", "10000"),
    ),
    Step(
        "link-soak", "four agents against Mosquitto over TLS lose no connection", ("benchmarks/link_soak.py",)
    ),
    Step(
        "fleet-away",
        "a device whose fleet is away sends less than a megabyte an hour, is back within a minute, and stays below 60 MB",
        ("benchmarks/fleet_away.py",),
    ),
    Step(
        "soak",
        "ten minutes of kills, cuts, clock steps and bad disks on twelve devices lose and double nothing",
        ("tests/soak.py", "--seconds", "600", "--devices", "12"),
    ),
    Step(
        "poisoning",
        "one poisoner of twelve, or a third of thirty, costs next to nothing, or stops the run (recordings of PRONOSTIA)",
        ("benchmarks/poisoning.py", "network", "--seeds", "1"),
    ),
    Step(
        "gates",
        "the gates of a rollout stop few good releases and see bad ones, in three worlds and in what a fleet meets (simulated)",
        ("benchmarks/rollout_gates.py",),
    ),
    Step(
        "published",
        "the wheel installs and runs on Python 3.11, 3.12 and 3.13, and in an empty Debian, where no checkout is",
        ("tests/edge_environment/prove_published.py",),
    ),
    Step("loaded", "the suite is green while both cores are busy", ("tests/under_load.py",)),
    *(
        Step(
            f"mutants-{area.name}",
            f"tests notice nine of ten mutants of {area.name}",
            ("tests/mutants/run.py", "--area", area.name, "--fresh"),
        )
        for area in AREAS
    ),
)


@dataclass(frozen=True)
class Proof:
    """A step that held: where, when, for how long it ran, and what it printed last."""

    commit: str
    date: str
    took: str
    figure: str


def read_proofs(page: str) -> dict[str, Proof]:
    """The rows of `docs/proofs.md` by step."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {row[0]: Proof(*row[2:6]) for row in rows if len(row) == 6 and row[0] != "step"}


def write_proofs(proofs: dict[str, Proof], steps: Iterable[Step]) -> str:
    """The page for `proofs`; a step that was never proved says so."""
    lines = []
    for step in steps:
        proof = proofs.get(step.name, Proof("never", "", "", ""))
        cells = (step.name, step.shows, proof.commit, proof.date, proof.took, proof.figure)
        lines.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(lines)


def present_commit() -> str:
    """The last commit that changed anything but documents; followed by ``+`` where something is not committed."""
    code = (".", ":!docs", ":!*.md")
    last = _git("log", "-1", "--format=%h", "--", *code)
    return last + ("+" if _git("status", "--porcelain", "--", *code) else "")


def prove(step: Step, commit: str) -> Proof | None:
    """Run a step, its output passed on; None when it does not hold."""
    started = time.monotonic()
    command = [sys.executable, *step.command]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        figure = ""
        for line in child.stdout:
            print(line, end="", flush=True)
            figure = line.strip() or figure
    if child.returncode != 0:
        return None
    took = f"{(time.monotonic() - started) / 60:.1f} min"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return Proof(commit, today, took, figure.replace("|", "/")[:160])


def main() -> int:
    """Prove the steps that were asked for and are not proved yet; the exit code says whether all hold."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(step.name for step in STEPS))
    options.add_argument("--again", action="store_true", help="run steps that are proved at this commit, too")
    chosen = options.parse_args()
    if unknown := set(chosen.steps) - {step.name for step in STEPS}:
        options.error(f"no step is called {', '.join(sorted(unknown))}")
    failed = []
    for step in STEPS:
        if chosen.steps and step.name not in chosen.steps:
            continue
        proofs = read_proofs(PROOFS.read_text(encoding="utf-8")) if PROOFS.exists() else {}
        commit = present_commit()
        known = proofs.get(step.name)
        if known and known.commit == commit and not commit.endswith("+") and not chosen.again:
            print(f"prove: {step.name}: proved at {commit} on {known.date}", flush=True)
            continue
        print(f"prove: {step.name}: {step.shows} ...", flush=True)
        proof = prove(step, commit)
        if proof is None:
            failed.append(step.name)
            print(f"prove: {step.name}: NOT PROVED", flush=True)
            continue
        PROOFS.write_text(write_proofs(proofs | {step.name: proof}, STEPS), encoding="utf-8")
    print(f"prove: not proved: {', '.join(failed)}" if failed else "prove: all proved", flush=True)
    return 1 if failed else 0


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
