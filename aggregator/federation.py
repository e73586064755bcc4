"""Sessions with devices over the embedded Flower server: a training run's open door.

One run trains at a time, so the server's roster is the roster of that run: nobody else is let in. A Flower run is only the
envelope of a session; a session that breaks or a restart opens a new one under the same training run.

Every session sums under masks, unless the family's settings say otherwise; that is never silent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from aggregator.flower.server import FlowerRun, FlowerServer, RunEnd
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.collector import Collector, PlainCollector
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.runs import RunState
from aggregator.rounds.secure_collector import SecureCollector
from protocol.identity import load_public_key
from protocol.names import DeviceId, FamilyName, RunId

__all__ = ["FlowerFederation", "FlowerSession"]

_log = structlog.get_logger()
_ENDS = {RunState.FAILED: RunEnd.FAILED, RunState.CANCELED: RunEnd.STOPPED}


class FlowerSession:
    """Implements `aggregator.rounds.ports.Session`."""

    def __init__(self, server: FlowerServer, run: FlowerRun, collector: Collector) -> None:
        self._server, self._run, self.collector = server, run, collector
        self._is_open = True

    def joined(self) -> Mapping[DeviceId, str]:
        """See `Session.joined`."""
        return self._server.joinings()

    def close(self, outcome: str) -> None:
        """See `Session.close`."""
        if self._is_open:
            self._is_open = False
            self._server.finish_run(self._run, _ENDS.get(RunState(outcome), RunEnd.COMPLETED), outcome)


class FlowerFederation:
    """Implements `aggregator.rounds.ports.Federation`.

    Args:
        server: the embedded Flower server.
        accounts: where secure rounds are written down.
    """

    def __init__(self, server: FlowerServer, accounts: PrivacyAccounts) -> None:
        self._server, self._accounts = server, accounts

    def open(self, run: RunId, roster: Mapping[DeviceId, bytes], policy: FamilySettings) -> FlowerSession:
        """See `Federation.open`."""
        self._server.sync_roster(roster)
        flower_run = self._server.start_run()
        if not policy.secure_sum.enabled:
            _log.warning(
                "secure_sum_off",
                run=run,
                family=policy.name,
                meaning="this process sees the update of every single device",
            )
            return FlowerSession(self._server, flower_run, PlainCollector(self._server.link(flower_run)))
        collector = SecureCollector(
            self._server.stage_link(flower_run),
            # `sync_roster` has read, and would have refused, the same keys.
            roster={device: load_public_key(pem) for device, pem in roster.items()},
            policy=policy.sum_policy,
            accounts=self._accounts,
            family=FamilyName(policy.name),
            random_bytes=os.urandom,
        )
        return FlowerSession(self._server, flower_run, collector)
