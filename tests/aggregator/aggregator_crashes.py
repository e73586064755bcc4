"""What an aggregator does while its disk is watched: `python aggregator_crashes.py ROOT ledger|runs` (see `fault_laboratory`).

It notes ``seen N`` when a sum of round N is seen, and ``holds DIGEST`` when a step of a run is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from fault_laboratory.machine_faults import note
from fault_laboratory.sqlite_contents import contents_digest
from ledger_world import FAMILY, accounts_at, devices, gaussian, poisson, round_id

from aggregator.privacy.ledger_entries import Outcome
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from protocol.names import RunId

COHORT = devices(4)
NOISE = gaussian(cohort=4, dropouts=1)


def account(root: Path) -> None:
    """Three rounds in each of two lives."""
    for first in (1, 4):
        accounts = accounts_at(root)
        for number in range(first, first + 3):
            accounts.open_round(round_id(number), FAMILY, noise=NOISE, sampling=poisson(), cohort=COHORT)
            note(f"seen {number}")
            accounts.close_round(round_id(number), Outcome.USED, participants=COHORT[1:])
        accounts.close()


def train(root: Path) -> None:
    """A run from its request to its end, each step with what it made."""
    path = root / "runs.sqlite"
    store = RunStore(path)
    run = TrainingRun(
        id=RunId("run-1"),
        family=FAMILY,
        trigger="person",
        reason="because",
        requested_by="ann",
        rounds=3,
        state=RunState.ROUND,
        created_at=1.0,
        updated_at=1.0,
    )
    note(f"holds {contents_digest(path)}")
    store.add(run)
    note(f"holds {contents_digest(path)}")
    for number in (1, 2, 3):
        run = msgspec.structs.replace(run, finished_rounds=number)
        store.save(run, {"parameters": bytes([number]) * 5_000, "moments": bytes([number]) * 10_000})
        note(f"holds {contents_digest(path)}")
    store.request_cancel(run.id)
    note(f"holds {contents_digest(path)}")
    store.save(msgspec.structs.replace(run, state=RunState.CANCELED, ended_at=9.0))
    note(f"holds {contents_digest(path)}")
    store.close()


if __name__ == "__main__":
    {"ledger": account, "runs": train}[sys.argv[2]](Path(sys.argv[1]))
