"""``fedge-aggregator verify-release``: what a release claims is worked out anew from the ledger, and each forgery is named."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_world import (
    COHORT,
    EVERYBODY,
    FAMILY,
    NOISE,
    SILENT,
    accounts_at,
    fixed,
    play,
    poisson,
    question,
    release_of,
    round_id,
)
from msgspec import structs
from typer.testing import CliRunner

from aggregator.cli import cli
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.claims import plain_claim
from aggregator.privacy.ledger import GENESIS
from aggregator.privacy.ledger_entries import Outcome
from aggregator.privacy.settings import FamilyBudget
from aggregator.release_keys import public_key_path
from protocol.manifest import Provenance
from protocol.names import RunId
from protocol.privacy_claim import Mode, PrivacyClaim

BUDGET = FamilyBudget(delta=1e-5, maximum_participations=30)
NOW = 1_000_000.0


def played(
    folder: Path, *, noise: Any = NOISE, sampling: Any = EVERYBODY, run: str = "run-1"
) -> PrivacyAccounts:
    """A run of three rounds, one of them void at first, and an assessment."""
    accounts = accounts_at(folder, BUDGET)
    accounts.plan_run(RunId(run), FAMILY, [question(3, noise, sampling)])
    shared = {"noise": noise, "sampling": sampling, "run": run}
    play(accounts, 1, COHORT, participants=COHORT[:18], **shared)
    play(accounts, 2, COHORT, outcome=Outcome.VOID, **shared)
    play(accounts, 3, COHORT, participants=COHORT[1:19], **shared)
    return accounts


def release_in(
    folder: Path, claim: PrivacyClaim, *, run: str = "run-1", family: str = FAMILY, **said: Any
) -> Path:
    steps, drawn = 2, claim.devices if claim.rounds.dropouts is None else 19
    provenance = {"training_run": run, "rounds": steps, "participants": drawn, "privacy": claim} | said
    created_at = provenance.pop("created_at", NOW + 1)
    return release_of(folder, Provenance(**provenance), family=family, created_at=created_at)


def verified(release: Path, ledger: Path) -> tuple[int, str]:
    key = public_key_path(release.parent / "release.key")
    found = CliRunner().invoke(
        cli, ["verify-release", str(release), "--release-key", str(key), "--ledger", str(ledger)]
    )
    return found.exit_code, found.output


def claim_of(accounts: PrivacyAccounts, run: str = "run-1") -> PrivacyClaim:
    return accounts.claim(FAMILY, RunId(run))


@pytest.mark.parametrize(
    ("noise", "sampling"),
    [
        (NOISE, EVERYBODY),
        (SILENT, EVERYBODY),
        (NOISE, fixed(20, 40, is_secret=False)),
        (NOISE, poisson(0.1, 200, quorum=16)),
    ],
)
def test_an_honest_release_agrees_in_every_line(tmp_path: Path, noise: Any, sampling: Any) -> None:
    release = release_in(tmp_path, claim_of(played(tmp_path, noise=noise, sampling=sampling)))
    code, said = verified(release, tmp_path / "privacy.sqlite")
    assert code == 0, said
    assert "does NOT agree" not in said
    assert said.endswith("The ledger bears out what motor/2 claims.\n")
    assert len(said.splitlines()) > 35


def test_an_earlier_release_agrees_with_a_ledger_that_has_grown(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    release = release_in(tmp_path, claim_of(accounts))
    accounts._now = lambda: NOW + 5000
    accounts.plan_run(RunId("run-2"), FAMILY, [question(1, NOISE, EVERYBODY)])
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY, run="run-2")
    code, said = verified(release, tmp_path / "privacy.sqlite")
    assert code == 0, said


def test_an_open_round_is_counted_by_a_release_that_agrees_and_missed_in_one_that_does_not(
    tmp_path: Path,
) -> None:
    accounts = played(tmp_path)
    accounts.open_round(round_id(4), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    claim = claim_of(accounts)
    assert claim.rounds.open == 1
    release = release_in(tmp_path, claim, rounds=3, participants=20)
    assert verified(release, tmp_path / "privacy.sqlite")[0] == 0
    silent = structs.replace(claim, rounds=structs.replace(claim.rounds, open=0))
    code, said = verified(release_in(tmp_path, silent, rounds=3), tmp_path / "privacy.sqlite")
    assert (code, "rounds, open: the release says 0, the ledger 1" in said) == (1, True)


def figure(name: str, field: str, value: object) -> Callable[[PrivacyClaim], PrivacyClaim]:
    return lambda claim: structs.replace(
        claim, **{name: structs.replace(getattr(claim, name), **{field: value})}
    )


def told(**changes: object) -> Callable[[PrivacyClaim], PrivacyClaim]:
    return lambda claim: structs.replace(claim, **changes)


FORGERIES = {
    "a smaller epsilon towards the server": (figure("server", "epsilon", 1.0), "epsilon_server:"),
    "a smaller epsilon of the run": (figure("server", "run_epsilon", 1.0), "epsilon_server of the run:"),
    "a smaller epsilon towards outsiders": (figure("release", "epsilon", 0.5), "epsilon_release:"),
    "a kinder comparison": (
        figure("release", "adjacency", "one device's contributions are there, or zero stands in their place"),
        "epsilon_release, what is compared:",
    ),
    "a smaller delta": (told(delta=1e-9), "delta:"),
    "more noise": (told(noise_multiplier=4.0), "noise over what one device can change:"),
    "a void too few": (
        lambda claim: structs.replace(claim, rounds=structs.replace(claim.rounds, void=0)),
        "rounds, void:",
    ),
    "fewer devices": (told(devices=3), "devices:"),
    "fewer participations": (told(participations=1), "most participations of a device:"),
    "no colluders": (told(colluders=9), "colluders:"),
    "another mode": (told(mode=Mode.ROBUST), "mode:"),
    "a larger quorum": (told(quorum=19), "every sum used had its quorum:"),
    "a kinder sentence": (told(lying="nothing at all"), "lying:"),
    "fewer caveats": (told(not_covered=()), "what is not covered:"),
    "another ledger": (told(ledger_sha256="0" * 64), "digest of the ledger:"),
    "entries that are not there": (told(ledger_entries=99), "entries of the ledger:"),
}


@pytest.mark.parametrize(("forge", "line"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_claim_that_was_forged_and_signed_is_found_out(
    tmp_path: Path, forge: Callable[[PrivacyClaim], PrivacyClaim], line: str
) -> None:
    """The aggregator holds the release key: what it signs is not therefore true."""
    claim = claim_of(played(tmp_path))
    forged = forge(claim)
    assert forged != claim
    code, said = verified(release_in(tmp_path, forged), tmp_path / "privacy.sqlite")
    assert code == 1
    assert f"does NOT agree  {line}" in said


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"rounds": 9}, "rounds of training:"),
        ({"participants": 99}, "participants:"),
        ({"run": "run-7"}, "the run of the release asked devices of its family:"),
        ({"created_at": NOW - 3600}, "order of time:"),
    ],
)
def test_a_provenance_that_was_forged_is_found_out(tmp_path: Path, said: dict[str, Any], line: str) -> None:
    release = release_in(tmp_path, claim_of(played(tmp_path)), **said)
    code, words = verified(release, tmp_path / "privacy.sqlite")
    assert (code, f"does NOT agree  {line}" in words) == (1, True)


def test_a_claim_of_another_family_is_found_out(tmp_path: Path) -> None:
    release = release_in(tmp_path, claim_of(played(tmp_path)), family="pump")
    code, said = verified(release, tmp_path / "privacy.sqlite")
    assert code == 1
    assert "agrees          digest of the ledger" in said
    assert "the release says run-1 of 'pump', the ledger 0 rounds of that run and family" in said


def test_a_claim_from_before_the_dear_rounds_is_found_out(tmp_path: Path) -> None:
    """The ledger's beginning is genuine, and so is every figure of it; the rounds that followed are left out."""
    accounts = accounts_at(tmp_path, BUDGET)
    accounts.plan_run(RunId("run-1"), FAMILY, [question(3, NOISE, EVERYBODY)])
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY)
    cheap = claim_of(accounts)
    play(accounts, 2, COHORT, noise=NOISE, sampling=EVERYBODY)
    code, said = verified(release_in(tmp_path, cheap, rounds=1), tmp_path / "privacy.sqlite")
    assert code == 1
    assert (
        "no round before the release is left out: the release says none, the ledger 1: run-1 train.fit 2.1"
        in said
    )


# --- the ledger forged


def rewritten(
    ledger: Path, change: Callable[[list[bytes]], list[bytes]], *, keeps_head: bool = False
) -> None:
    """Change entries and chain them anew, as somebody with the file in hand can; with the old head at the end if it is kept."""
    db = sqlite3.connect(ledger)
    with db:
        rows = db.execute("SELECT body, digest FROM entries ORDER BY number").fetchall()
        db.execute("DROP TRIGGER entries_stay")
        db.execute("DROP TRIGGER entries_last")
        db.execute("DELETE FROM entries")
        digest = GENESIS
        bodies = change([bytes(body) for body, _ in rows])
        for number, body in enumerate(bodies, 1):
            digest = hashlib.sha256(digest + body).digest()
            if keeps_head and number == len(bodies):
                digest = rows[-1][1]
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, body, digest))
    db.close()


def verified_after(
    folder: Path, change: Callable[[list[bytes]], list[bytes]], *, keeps_head: bool = False
) -> tuple[int, str]:
    """What is said of an honest release once the ledger was rewritten."""
    accounts = played(folder)
    release = release_in(folder, claim_of(accounts))
    accounts.close()
    rewritten(folder / "privacy.sqlite", change, keeps_head=keeps_head)
    return verified(release, folder / "privacy.sqlite")


def louder(bodies: list[bytes]) -> list[bytes]:
    """All noise ten times what it was."""
    changed = []
    for body in bodies:
        entry = msgspec.json.decode(body)
        if "noise" in entry:
            entry["noise"]["local_noise"] *= 10
        changed.append(msgspec.json.encode(entry))
    return changed


def test_a_ledger_with_an_entry_dropped_and_chained_anew_is_found_out(tmp_path: Path) -> None:
    code, said = verified_after(tmp_path, lambda bodies: bodies[:3] + bodies[5:])
    assert code == 1
    assert "does NOT agree  entries of the ledger: the release says 7, the ledger 5" in said
    assert "does NOT agree  rounds, void: the release says 1, the ledger 0" in said


def test_a_ledger_whose_opening_is_dropped_contradicts_itself(tmp_path: Path) -> None:
    code, said = verified_after(tmp_path, lambda bodies: bodies[:1] + bodies[2:])
    assert (code, "run-1 train.fit 1.1 was never opened" in said) == (1, True)


def test_a_ledger_that_was_rewritten_as_a_whole_agrees_with_no_release(tmp_path: Path) -> None:
    code, said = verified_after(tmp_path, louder)
    assert (code, "does NOT agree  digest of the ledger" in said) == (1, True)


@pytest.mark.parametrize("change", [louder, lambda bodies: [*bodies[:3], *bodies[5:]]])
def test_a_ledger_that_was_rewritten_and_keeps_its_head_is_refused(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    code, said = verified_after(tmp_path, change, keeps_head=True)
    assert code == 2
    assert "is broken at entry" in said


def test_what_is_no_ledger_is_refused_and_none_is_made(tmp_path: Path) -> None:
    release = release_in(tmp_path, claim_of(played(tmp_path / "a")))
    code, said = verified(release, tmp_path / "nothing.sqlite")
    assert (code, "there is no privacy ledger at" in said) == (2, True)
    assert not (tmp_path / "nothing.sqlite").exists()
    (tmp_path / "text.sqlite").write_text(
        "not a database at all, but a long enough line of text to look at" * 99
    )
    code, said = verified(release, tmp_path / "text.sqlite")
    assert (code, "no readable database" in said) == (2, True)


def test_nothing_is_laid_beside_a_ledger_that_nobody_writes(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    release = release_in(tmp_path, claim_of(accounts))
    accounts.close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert verified(release, tmp_path / "privacy.sqlite")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_ledger_whose_aggregator_was_killed_is_read_with_what_is_in_its_log(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    claim = claim_of(accounts)
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in tmp_path.glob("privacy.sqlite*"):
        if not path.name.endswith("-shm"):
            (copies / path.name).write_bytes(path.read_bytes())
    assert (copies / "privacy.sqlite-wal").stat().st_size
    assert verified(release_in(tmp_path, claim), copies / "privacy.sqlite")[0] == 0


def test_a_ledger_in_which_a_sum_was_used_below_its_quorum_is_found_out(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    accounts.close()

    def fewer(bodies: list[bytes]) -> list[bytes]:
        entry = msgspec.json.decode(bodies[2])
        entry["participants"] = entry["participants"][:5]
        return [*bodies[:2], msgspec.json.encode(entry), *bodies[3:]]

    rewritten(tmp_path / "privacy.sqlite", fewer)
    # A dishonest aggregator could write such a ledger, and sign what follows from it.
    claim = claim_of(accounts_at(tmp_path, BUDGET, read_only=True))
    code, said = verified(release_in(tmp_path, claim), tmp_path / "privacy.sqlite")
    assert code == 1
    assert "5 participants, its noise was planned for 16 or more" in said


def test_a_release_in_plain_has_nothing_to_verify(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    accounts.close()
    claim = plain_claim(devices=4, used=6, void=1, delta=1e-6)
    code, said = verified(release_in(tmp_path, claim), tmp_path / "privacy.sqlite")
    assert (code, "learned from answers without masks" in said) == (2, True)
