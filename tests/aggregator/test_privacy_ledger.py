"""The ledger: appended, chained, durable; and a kill -9 at any point of a round never leaves a seen sum uncounted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from privacy_world import FAMILY, accounts_at, devices, gaussian, play, poisson, round_id

from aggregator.errors import LedgerDamagedError, LedgerError
from aggregator.privacy.ledger import GENESIS, Ledger
from aggregator.privacy.ledger_entries import Outcome, RoundClosed, RoundOpened

COHORT = devices(4)
NOISE = gaussian(cohort=4, dropouts=1)


def opened(number: int) -> RoundOpened:
    return RoundOpened(
        id=round_id(number), family=FAMILY, at=1.0, noise=NOISE, sampling=poisson(), cohort=COHORT
    )


def closed(number: int) -> RoundClosed:
    return RoundClosed(id=round_id(number), at=2.0, outcome=Outcome.USED, participants=COHORT)


def filled(path: Path) -> Path:
    ledger = Ledger(path)
    for number in (1, 2, 3):
        ledger.append(opened(number))
        ledger.append(closed(number))
    ledger.close()
    return path


def tamper(path: Path, statement: str) -> None:
    """What somebody with the file in hand can do: take the triggers away first."""
    db = sqlite3.connect(path)
    with db:
        db.execute("DROP TRIGGER entries_stay")
        db.execute("DROP TRIGGER entries_last")
        db.execute(statement)
    db.close()


def test_entries_come_back_in_their_order(tmp_path: Path) -> None:
    ledger = Ledger(filled(tmp_path / "l"))
    assert ledger.entries == [entry for number in (1, 2, 3) for entry in (opened(number), closed(number))]
    assert ledger.head.entries == 6
    assert ledger.digest_after(6) == ledger.head.sha256
    assert ledger.digest_after(0) == GENESIS.hex()
    assert ledger.digest_after(7) == ""


@pytest.mark.parametrize("change", ["UPDATE entries SET body = x'00'", "DELETE FROM entries"])
def test_the_file_itself_refuses_changes(tmp_path: Path, change: str) -> None:
    db = sqlite3.connect(filled(tmp_path / "l"))
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        db.execute(change)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = CAST(replace(body, 'device-000', 'device-009') AS BLOB) WHERE number = 3",
        "DELETE FROM entries WHERE number = 3",
        "UPDATE entries SET digest = zeroblob(32) WHERE number = 3",
    ],
)
def test_a_changed_ledger_is_refused_and_says_where(tmp_path: Path, statement: str) -> None:
    tamper(filled(tmp_path / "l"), statement)
    with pytest.raises(LedgerDamagedError, match="broken at entry 3"):
        Ledger(tmp_path / "l")


def test_an_entry_of_another_build_is_refused(tmp_path: Path) -> None:
    import hashlib

    Ledger(tmp_path / "l").close()
    db = sqlite3.connect(tmp_path / "l")
    body = b'{"type":"something_new"}'
    with db:
        db.execute("INSERT INTO entries VALUES (1, ?, ?)", (body, hashlib.sha256(GENESIS + body).digest()))
    db.close()
    with pytest.raises(LedgerDamagedError, match=r"entry 1 .* cannot be read by this build"):
        Ledger(tmp_path / "l")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerDamagedError, match="no readable database"):
        Ledger(tmp_path / "l")


def test_a_second_writer_is_refused_instead_of_forking_the_chain(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "l"), Ledger(tmp_path / "l")
    first.append(opened(1))
    with pytest.raises(LedgerError, match="another process has written"):
        second.append(opened(2))
    assert Ledger(tmp_path / "l").entries == [opened(1)]


def test_a_reader_sees_a_ledger_that_is_being_written_and_cannot_write(tmp_path: Path) -> None:
    writer = Ledger(filled(tmp_path / "l"))
    writer.append(opened(4))
    reader = Ledger(tmp_path / "l", read_only=True)
    assert reader.head == writer.head
    with pytest.raises(LedgerError, match="cannot be written"):
        reader.append(opened(5))


def test_a_missing_ledger_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no privacy ledger at"):
        Ledger(tmp_path / "l", read_only=True)
    assert not (tmp_path / "l").exists()


def test_an_entry_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    db = Ledger(tmp_path / "l")._db
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: every commit is fsynced"
    assert db.isolation_level is None, "no transaction is left open behind our back"


class Fuse:
    """Kills this process with SIGKILL at its n-th spark."""

    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_rounds(folder: Path, fuse: Fuse) -> None:
    """Three rounds; each sum that was seen is noted in a file of its own, as an adversary would."""
    accounts = accounts_at(folder)
    accounts._ledger._db.set_trace_callback(fuse.burn)  # sparks inside the ledger's own statements, too
    for number in (1, 2, 3):
        fuse.burn()
        accounts.open_round(round_id(number), FAMILY, noise=NOISE, sampling=poisson(), cohort=COHORT)
        fuse.burn()
        seen = os.open(folder / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(seen, b"%d\n" % number)
        os.fsync(seen)
        os.close(seen)
        fuse.burn()
        accounts.close_round(round_id(number), Outcome.USED, participants=COHORT[1:])
        fuse.burn()
    accounts.close()


def until_killed(target: Callable[[Path, Fuse], None], folder: Path, length: int) -> bool:
    """Run `target` in a process that dies at the given spark; whether it did."""
    child = multiprocessing.get_context("fork").Process(target=target, args=(folder, Fuse(length)))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def test_a_kill_at_any_point_of_a_round_never_leaves_a_seen_sum_uncounted(tmp_path: Path) -> None:
    length, was_killed, half_open = 0, True, 0
    while was_killed:
        length += 1
        folder = tmp_path / str(length)
        folder.mkdir()
        was_killed = until_killed(run_rounds, folder, length)
        seen = (folder / "seen").read_text().split() if (folder / "seen").exists() else []
        accounts = accounts_at(folder)
        held = {one.opened.id.number: one for one in accounts.rounds(FAMILY)}
        assert set(map(int, seen)) <= set(held), "a sum was seen of which the ledger knows nothing"
        for number in map(int, seen):
            assert held[number].is_seen_by_server
            assert set(held[number].participants) >= set(COHORT[1:])
            assert held[number].cost.rho > 0
        half_open += any(one.is_open for one in held.values())
        # Life goes on: the next attempt is a new one, and the figure does not fall.
        before = accounts.figures(FAMILY)
        play(accounts, 9, COHORT, noise=NOISE, sampling=poisson())
        after = accounts.figures(FAMILY)
        assert after.server > before.server
        assert after.release > before.release
        accounts.close()
    assert length > 15, "the fuse never got into the rounds"
    assert half_open > 5, "no kill hit an open round"
