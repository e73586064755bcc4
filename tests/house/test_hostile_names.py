"""A name from outside stays text: it makes no second line in any log, and does nothing to any terminal."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from aggregator import run_tables
from edge_agent.commands.status_table import print_status
from edge_agent.process_sight import ProcessSight
from edge_agent.remote.log_ring import LogRing
from edge_agent.status import Status
from fleet.commands.printing import print_json, print_table, say
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import Health
from runtime.printable import printable

# A line feed of every kind, colours by C0 and by C1, a title for the window, marks that turn text around, half a character.
CHARACTERS = "\n\r\x0b\x0c\x1c\x85\u2028\u2029\x00\x07\x08\x1b\x7f\x9b\x9d\u202e\u2066\ud800\U000e0041"
HOSTILE = "press-1" + "".join(f"{c}2026-01-01 [info] forged [red]x[/red]" for c in CHARACTERS) + "\x1b[31m"

PROGRAM = """
import logging, sys, structlog
{configure}
evil = {hostile!a}
logging.getLogger("a.b").warning("run_refused run_id=%s", evil)
logging.getLogger(evil).warning("named")
try:
    raise ValueError(evil)
except ValueError:
    logging.getLogger("a.b").exception("run_failed")
"""
STRUCTLOG = """
log = structlog.get_logger()
log.info("run_started", run_id=evil)
log.info("run_started", run_id="\\x1b[31m")
log.info(evil, **{evil: [evil, {evil: evil}]})
try:
    raise ValueError(evil)
except ValueError:
    log.error("run_failed", exc_info=True)
import warnings
warnings.warn(evil)
"""


def said(configure: str, more: str = "") -> list[str]:
    program = PROGRAM.format(configure=configure, hostile=HOSTILE) + more
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    text = done.stderr.decode("utf-8", "strict")
    assert text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    for line in lines:
        assert line.isprintable(), repr(line)
    return lines


def test_a_services_log_for_programs_has_one_object_for_each_event() -> None:
    lines = said("from service.logs import configure_logging; configure_logging(as_json=True)", STRUCTLOG)
    assert len(lines) == 8
    assert json.loads(lines[3])["run_id"] == HOSTILE


@pytest.mark.parametrize(
    ("configure", "more", "events"),
    [
        ("from service.logs import configure_logging; configure_logging(as_json=False)", STRUCTLOG, 8),
        (
            "from runtime.bounded_logs import log_to_stderr; log_to_stderr('%(levelname)s %(name)s %(message)s')",
            "",
            3,
        ),
    ],
    ids=["services", "agent"],
)
def test_a_log_for_people_has_one_line_for_each_event_and_marks_what_is_a_traceback(
    configure: str, more: str, events: int
) -> None:
    lines = said(configure, more)
    assert len([line for line in lines if not line.startswith("  | ")]) == events
    assert any("ValueError" in line for line in lines if line.startswith("  | "))


def test_the_log_that_a_diagnosis_takes_along_is_as_plain() -> None:
    ring = LogRing()
    logger = logging.Logger("edge_agent")
    logger.addHandler(ring)
    logger.warning("run_refused run_id=%s", HOSTILE)
    (line,) = ring.lines()
    assert line.isprintable()


def is_plain(shown: str) -> bool:
    return all(line.isprintable() for line in shown.split("\n"))


def test_tables_and_sentences_of_the_fleet_show_it_and_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HOSTILE, ["device"], [[HOSTILE], [None]])
    say(f"held back: {HOSTILE}")
    shown = capsys.readouterr().out
    assert is_plain(shown)
    assert r"\x1b[31m" in shown
    assert "[red]" in shown
    print_json({HOSTILE: [HOSTILE]})
    shown = capsys.readouterr().out
    assert is_plain(shown)
    assert json.loads(shown) == {HOSTILE: [HOSTILE]}


def test_the_agents_status_shows_it_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    health = Health(state=AgentState.WATCHING, release=HOSTILE, uptime_s=1.0, missing=(HOSTILE,))
    status = Status(
        device=HOSTILE,
        tenant="t",
        family="f",
        pid=1,
        boot_id="b",
        agent_version="1",
        started_at_s=0.0,
        written_at_s=0.0,
        health=health,
        learner=HOSTILE,
        commands=(HOSTILE,),
        problems=(HOSTILE, "[link=http://x]y[/]"),
    )  # fmt: skip - one line of fields
    print_status(status, ProcessSight(boot_s=0.0, kernel_boot="another machine's"))
    shown = capsys.readouterr().out
    assert is_plain(shown)
    assert "[link=http://x]y[/]" in shown


def test_the_aggregators_runs_show_it_and_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(run_tables, "_console", lambda: Console(file=shown, width=240))
    record = {
        "kind": "fit",
        "number": 1,
        "attempt": 1,
        "participants": [],
        "asked": 1,
        "lost": [HOSTILE],
        "seconds": 1.0,
        "note": HOSTILE,
        "stages": {HOSTILE: HOSTILE},
        "refused": [{"device": HOSTILE, "reason": HOSTILE}],
        "groups": [{"devices": [HOSTILE], "left_out": HOSTILE}],
    }  # fmt: skip - one line of fields
    run = {
        "id": HOSTILE,
        "family": HOSTILE,
        "state": "FAILED",
        "detail": HOSTILE,
        "mode": HOSTILE,
        "protection": HOSTILE,
        "rounds": [record],
        "finished_rounds": 1,
        "planned_rounds": 1,
        "trigger": HOSTILE,
        "created_at": 0.0,
        "release": HOSTILE,
        "checks": [{"is_passed": True, "reason": HOSTILE}],
    }  # fmt: skip - one line of fields
    run_tables.print_run(run)
    run_tables.print_runs([run])
    assert is_plain(shown.getvalue())


def test_a_plain_name_is_shown_as_it_is() -> None:
    assert printable("Halle Süd, Presse 7 – №1 🏭") == "Halle Süd, Presse 7 – №1 🏭"
