"""Whose events an outbox holds: another identity, a former name, a person who takes over, and the count of starts."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest
from outbox_world import FILE, ack, anomaly, event, moment, on_disk, open_outbox, send, sequences

from edge_agent.boot_number import next_boot_number
from edge_agent.commands.outbox_commands import retry_parked, take_over_events
from edge_agent.outbox import Outbox
from edge_agent.outbox_owner import Owner, take_over
from edge_agent.settings import OutboxSettings, load_agent_settings
from protocol.messages.envelope import decode

pytestmark = pytest.mark.edge
OWNER = Owner(tenant="demo", device="pump-07", fingerprint="aa")


def _open_as(folder: Path, owner: Owner, boot_s: float = 0.0) -> Outbox:
    return Outbox.open(folder / FILE, OutboxSettings(), now=moment(boot_s), owner=owner)


@pytest.mark.parametrize(
    "other",
    [
        Owner(tenant="demo", device="pump-08", fingerprint="aa"),
        Owner(tenant="demo", device="pump-07", fingerprint="bb"),
        Owner(tenant="rival", device="pump-07", fingerprint="aa"),
    ],
)
def test_a_new_identity_sets_the_old_outbox_aside_and_says_so(
    tmp_path: Path, other: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    before = _open_as(tmp_path, OWNER)
    before.put([event(i, anomaly(), source="pump-07") for i in range(1, 46)], now=moment())
    before.close()
    after = _open_as(tmp_path, other)
    assert len(after) == 0
    after.put([event(1, anomaly(), boot="b2", source=other.device)], now=moment())
    assert sequences(after) == [1]
    name = f"{FILE}.of-pump-07-{int(moment().wall_s)}"
    assert (tmp_path / name).exists()
    assert f"set aside in {name}" in after.problems()[0]
    assert "outbox_set_aside events=45 of=pump-07" in caplog.text
    after.close()
    assert len(_open_as(tmp_path, other)) == 1, "the same identity keeps what waits"
    assert len(list(tmp_path.glob(f"{FILE}.of-*"))) == 1


def test_the_same_identity_keeps_its_outbox_and_an_empty_one_changes_hands(tmp_path: Path) -> None:
    first = _open_as(tmp_path, Owner(tenant="demo", device="pump-07"))
    first.put([event(1, anomaly())], now=moment())
    first.close()
    known = _open_as(tmp_path, OWNER)
    assert len(known) == 1, "a key that was not known is no other key"
    send(known)
    known.acknowledge([ack((1, 1))], 0.1)
    known.close()
    _open_as(tmp_path, Owner(tenant="rival", device="x")).close()
    assert list(tmp_path.glob(f"{FILE}.of-*")) == []


def test_an_outbox_of_an_older_version_says_by_its_first_event_whose_it_is(tmp_path: Path) -> None:
    nobody = open_outbox(tmp_path)
    nobody.put([event(1, anomaly(), source="pump-07")], now=moment())
    nobody.close()
    assert len(_open_as(tmp_path, Owner(tenant="demo", device="pump-08"))) == 0
    assert list(tmp_path.glob(f"{FILE}.of-pump-07-*"))


def test_a_person_has_the_events_of_the_former_name_delivered_under_the_new_one(tmp_path: Path) -> None:
    before = _open_as(tmp_path, OWNER)
    before.put([event(i, anomaly(), source="pump-07") for i in range(1, 46)], now=moment())
    before.close()
    renamed = Owner(tenant="demo", device="pump-08", fingerprint="bb")
    after = _open_as(tmp_path, renamed)
    after.put([event(1, anomaly(), boot="b2", source="pump-08")], now=moment())
    (aside,) = tmp_path.glob(f"{FILE}.of-*")
    with pytest.raises(ValueError, match="holds events of tenant 'demo'"):
        take_over(tmp_path / FILE, aside, Owner(tenant="rival", device="x"))
    assert take_over(tmp_path / FILE, aside, renamed) == 45
    assert not list(tmp_path.glob(f"{FILE}.of-*"))
    after.put([event(2, anomaly(), boot="b2", source="pump-08")], now=moment(61.0))
    heard = []
    for tick in range(20):
        for entry in send(after, float(tick)):
            heard.append(decode(entry.payload).id)
            after.acknowledge([ack((entry.sequence, entry.sequence), boot=entry.boot_id)], float(tick))
    assert sorted(heard) == sorted(
        [f"pump-08/b1/{i}" for i in range(1, 46)] + ["pump-08/b2/1", "pump-08/b2/2"]
    )
    assert after.problems() == ()


def test_of_a_former_name_nothing_is_lost_that_only_a_later_version_knows(tmp_path: Path) -> None:
    before = _open_as(tmp_path, OWNER)
    before.put([event(1, anomaly()), event(2, anomaly())], now=moment())
    before._kept._store._db.execute("UPDATE events SET kind = 'telepathy' WHERE sequence = 2")
    before.close()
    renamed = Owner(tenant="demo", device="pump-08", fingerprint="bb")
    _open_as(tmp_path, renamed).close()
    (aside,) = tmp_path.glob(f"{FILE}.of-*")
    for _ in range(2):
        with pytest.raises(
            ValueError, match="1 events of kinds that this version does not know, 'telepathy'"
        ):
            take_over(tmp_path / FILE, aside, renamed)
    assert aside.exists()
    assert on_disk(tmp_path) == []


def test_a_persons_commands_wait_for_an_agent_that_writes_just_now(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        'state_dir = "."\ntenant = "demo"\nfamily = "f"\nhardware = "h"\n[trust]\nroot = "r"\n[source]\nkind = "simulated"\n'
    )
    (tmp_path / "enrolment.json").write_text(json.dumps({"device": "pump-08", "tenant": "demo"}))
    settings = load_agent_settings(config)
    before = _open_as(tmp_path, OWNER)
    before.put([event(1, anomaly(), source="pump-07")], now=moment())
    before.close()
    after = _open_as(tmp_path, Owner(tenant="demo", device="pump-08", fingerprint="bb"))
    after.put([event(1, anomaly(), boot="b2", source="pump-08")], now=moment())
    after._kept.park(("b2", 1), "why", "1")
    after.close()
    for command, said in ((retry_parked, "1 parked events"), (take_over_events, "1 events of 1 outboxes")):
        writer = sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)
        writer.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.4, lambda db=writer: db.execute("COMMIT"))
        release.start()
        assert command(settings).startswith(said)
        release.join()
        writer.close()
    assert on_disk(tmp_path) == [1, 1]


def test_starts_are_counted_and_any_record_of_them_may_be_lost_or_damaged(tmp_path: Path) -> None:
    file = tmp_path / "boot.json"

    def start(starts: int = 0) -> int:
        outbox = open_outbox(tmp_path)
        number = next_boot_number(file, outbox, starts)
        outbox.close()
        return number

    assert [start(), start()] == [1, 2]
    file.unlink()
    assert start() == 3, "the outbox knows"
    (tmp_path / FILE).unlink()
    assert start() == 4, "boot.json knows"
    file.write_bytes(b"{broken")
    assert start() == 5
    file.write_bytes(b'{"number": 9007199254740990}')
    assert start() == 6, "no device was started so often"
    file.unlink()
    (tmp_path / FILE).unlink()
    assert start(starts=6) == 7, "the counters know"


def test_where_no_start_can_be_counted_none_is_told(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path / "missing")
    assert next_boot_number(tmp_path / "missing" / "boot.json", outbox, 3) == 0
