"""The aggregator's half of the interop test: a secure round over the Grid that a stock SuperLink hands its ServerApp.

`StockGrid` gives `aggregator.flower.stage_link.FlowerStageLink` what our own grid gives it, so round logic and message layout are
the production ones; only Flower's server is another.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from secure_world import ARRAYS, FAMILY, FIT_LAYOUT, QUESTION
from waiting import AMPLE_S, wait_until

from aggregator.flower.stage_link import FlowerStageLink
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.secure_collector import SecureCollector
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from protocol.names import DeviceId

DIRECTORY = "INTEROP_DIRECTORY"
POLL_S = 0.25
POLICY = SumPolicy(
    norm_limit=10.0, maximum_examples=1000, stages=SecureSumSettings(stage_deadline_s=AMPLE_S, grace_s=0.0)
)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device of the cohort: its Flower node and its identity key (PEM)."""

    node: int
    public_key: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the round came to; `failure` in words where there is no sum."""

    participants: list[str] = []
    total: list[float] = []
    failure: str = ""


def server_app() -> ServerApp:
    """The app that Flower loads: one round of FIT, its outcome in a file."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _: Context) -> None:
        directory = Path(os.environ[DIRECTORY])
        try:
            outcome = _collect(grid, directory)
        except Exception:  # noqa: BLE001 - the test's process shows it
            outcome = Outcome(failure=traceback.format_exc())
        (directory / "outcome.tmp").write_bytes(msgspec.json.encode(outcome))
        (directory / "outcome.tmp").rename(directory / "outcome.json")

    return app


class StockGrid:
    """A stock Grid with the names of ours (`aggregator.flower.grid.LocalGrid`)."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def ask(self, messages: Sequence[Message], *, reply_bytes: int) -> list[str]:
        assert reply_bytes > 0
        ids = list(self._grid.push_messages(messages))
        assert all(ids), "the SuperLink took not every message"
        return ids

    def take_replies(self, message_ids: Collection[str]) -> list[Message]:
        return list(self._grid.pull_messages(list(message_ids)))

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Flower's Grid cannot take a message back; it ends with its lifetime."""


class Nodes:
    """Device to node, as registered with the SuperLink."""

    def __init__(self, cohort: dict[str, Member]) -> None:
        self._cohort = cohort

    def node_of(self, device: DeviceId) -> int | None:
        return self._cohort[device].node


class Poll:
    """Stands where our server's notifier stands: a stock Grid has none."""

    @staticmethod
    def wait_for_answer(seconds: float) -> None:
        time.sleep(min(seconds, POLL_S))


def _collect(grid: Grid, directory: Path) -> Outcome:
    cohort = msgspec.json.decode((directory / "cohort.json").read_bytes(), type=dict[str, Member])
    devices = [DeviceId(device) for device in sorted(cohort)]
    expected = {member.node for member in cohort.values()}
    wait_until(lambda: expected <= set(grid.get_node_ids()), f"{expected} online")
    accounts = PrivacyAccounts(directory / "ledger.sqlite", {}, now=time.time)
    collector = SecureCollector(
        FlowerStageLink(StockGrid(grid), Nodes(cohort), Poll()),
        roster={device: load_pem_public_key(cohort[device].public_key.encode()) for device in devices},
        policy=POLICY,
        accounts=accounts,
        family=FAMILY,
        random_bytes=os.urandom,
    )
    try:
        found = collector.collect(
            CohortQuestion(
                question=QUESTION, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
            ),
            Cohort(devices=tuple(devices), quorum=len(devices)),
            deadline_s=AMPLE_S,
        )
    finally:
        accounts.close()
    return Outcome(participants=list(found.participants), total=np.asarray(found.total).tolist())
