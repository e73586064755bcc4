"""The ledger: appended, chained, durable; kills at every write are in test_aggregator_crashes."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
from ledger_world import FAMILY, devices, gaussian, poisson, round_id

from aggregator.errors import LedgerDamagedError, LedgerError
from aggregator.privacy.ledger import GENESIS, Ledger
from aggregator.privacy.ledger_entries import Outcome, RoundClosed, RoundOpened
from protocol.privacy_cost import RoundNoise

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
    with_body(tmp_path / "l", b'{"type":"something_new"}')
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


WRITTEN = (  # by the build of 2026-11, byte for byte
    b'{"type":"round_opened","id":{"run":"run-1","question":"train.fit","number":1,"attempt":1},"family":"motor","at":1.0,"noise":'
    b'{"mechanism":"discrete-gaussian","bits":20,"dimension":1000,"clip":1.0,"noise_multiplier":1.0,"sensitivity":40.0,'
    b'"local_noise":10.0,"noise_shares":16,"colluders":0,"is_exact":%s,"clip_bit_noise":null},'
    b'"sampling":{"type":"fixed","size":2,"population":2,"is_secret":false},"cohort":["device-000","device-001"]}'
)


def with_body(path: Path, body: bytes) -> str:
    """A ledger of one entry that an older build wrote; its digest in hex."""
    Ledger(path).close()
    digest = hashlib.sha256(GENESIS + body).digest()
    db = sqlite3.connect(path)
    with db:
        db.execute("INSERT INTO entries VALUES (1, ?, ?)", (body, digest))
    db.close()
    return digest.hex()


def test_a_ledger_that_says_its_noise_was_not_exact_is_read_and_keeps_its_digest(tmp_path: Path) -> None:
    digest = with_body(tmp_path / "l", WRITTEN % b"false")
    ledger = Ledger(tmp_path / "l")
    assert (ledger.head.entries, ledger.head.sha256) == (1, digest)
    (entry,) = ledger.entries
    assert isinstance(entry, RoundOpened)
    assert entry.noise == RoundNoise(
        mechanism="discrete-gaussian",
        bits=20,
        dimension=1000,
        clip=1.0,
        noise_multiplier=1.0,
        sensitivity=40.0,
        local_noise=10.0,
        noise_shares=16,
    )


def test_a_ledger_that_says_noise_was_taken_out_again_is_refused(tmp_path: Path) -> None:
    with_body(tmp_path / "l", WRITTEN % b"true")
    with pytest.raises(LedgerDamagedError, match=r"entry 1 .* is_exact is false in every round"):
        Ledger(tmp_path / "l")
