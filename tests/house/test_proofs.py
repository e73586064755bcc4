"""`make prove`: what was proved is written down and not proved again; the page and the steps are each other's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import proofs
import pytest
from proofs import STEPS, Proof, Step, read_proofs, write_proofs

PROOF = Proof(commit="abc1234", date="2026-11-29", took="3.1 min", figure="proved in 34 s")


def test_a_page_is_read_as_it_was_written() -> None:
    page = write_proofs({"edge": PROOF}, STEPS)
    found = read_proofs(page)
    assert found["edge"] == PROOF
    assert set(found) == {step.name for step in STEPS}
    assert write_proofs(found, STEPS) == page


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    steps = [
        Step("good", "it holds", ("-c", "open('ran', 'a').write('good '); print('one', 'figure|')")),
        Step("bad", "it does not", ("-c", "open('ran', 'a').write('bad '); raise SystemExit(1)")),
    ]
    monkeypatch.setattr(proofs, "STEPS", steps)
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    monkeypatch.setattr(proofs, "PROOFS", tmp_path / "proofs.md")
    ran: list[str] = []

    def run(*arguments: str, commit: str = "abc1234") -> None:
        (tmp_path / "ran").write_text("")
        monkeypatch.setattr(proofs, "present_commit", lambda: commit)
        monkeypatch.setattr("sys.argv", ["prove", *arguments])
        assert proofs.main() == (0 if arguments == ("good",) else 1)
        ran.append((tmp_path / "ran").read_text().strip())

    run()
    run()
    run("good", commit="abc1234+")
    run("--again")
    return ran


def test_a_step_that_was_proved_at_this_commit_is_not_run_again(ran: list[str], tmp_path: Path) -> None:
    assert ran == ["good bad", "bad", "good", "good bad"]
    found = read_proofs((tmp_path / "proofs.md").read_text())
    assert replace(found["good"], date="", took="") == Proof("abc1234", "", "", "one figure/")
    assert found["bad"].commit == "never"
