"""Sessions with devices over the embedded Flower server: a training run's open door.

One run trains at a time, so the server's roster is the roster of that run: nobody else is let in. A Flower run is only the
envelope of a session; a session that breaks or a restart opens a new one under the same training run.
"""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.flower.server import FlowerRun, FlowerServer, RunEnd
from aggregator.rounds.collector import Collector, PlainCollector
from aggregator.rounds.runs import RunState
from protocol.names import DeviceId, RunId

__all__ = ["FlowerFederation", "FlowerSession"]

_ENDS = {RunState.FAILED: RunEnd.FAILED, RunState.CANCELED: RunEnd.STOPPED}


class FlowerSession:
    """Implements `aggregator.rounds.ports.Session`."""

    def __init__(self, server: FlowerServer, run: FlowerRun) -> None:
        self._server, self._run = server, run
        self._collector = PlainCollector(server.link(run))
        self._is_open = True

    @property
    def collector(self) -> Collector:
        """See `Session.collector`."""
        return self._collector

    def joined(self) -> frozenset[DeviceId]:
        """See `Session.joined`."""
        return self._server.online_devices()

    def close(self, outcome: str) -> None:
        """See `Session.close`."""
        if self._is_open:
            self._is_open = False
            self._server.finish_run(self._run, _ENDS.get(RunState(outcome), RunEnd.COMPLETED), outcome)


class FlowerFederation:
    """Implements `aggregator.rounds.ports.Federation`."""

    def __init__(self, server: FlowerServer) -> None:
        self._server = server

    def open(self, run: RunId, roster: Mapping[DeviceId, bytes]) -> FlowerSession:  # noqa: ARG002 - the port names the training run; Flower numbers its own
        """See `Federation.open`."""
        self._server.sync_roster(roster)
        return FlowerSession(self._server, self._server.start_run())
