"""A real agent whose wall clock steps by minutes, days and decades, both ways: every anomaly arrives, none is too old."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import DEVICE, faulty, health_of_status, healthy, make_bundle, running_agent, write_device
from fault_laboratory.machine_faults import MachineFaults
from fault_laboratory.road import Road
from waiting import died, wait_until

from protocol.messages.kinds import Kind

pytestmark = pytest.mark.slow
MINUTE_S, DAY_S, YEAR_S = 60.0, 86_400.0, 365 * 86_400.0
SOME: Final = (-20 * DAY_S, 10 * YEAR_S, 0.0)
ALL: Final = tuple(
    sign * step
    for step in (5 * MINUTE_S, DAY_S, 20 * DAY_S, YEAR_S, 10 * YEAR_S, 40 * YEAR_S)
    for sign in (-1, 1)
)


@pytest.mark.parametrize(
    ("steps", "is_cut_off"),
    [
        pytest.param(SOME, True, id="some, cut off"),
        pytest.param(ALL, True, id="all, cut off", marks=pytest.mark.long),
        pytest.param(ALL, False, id="all, connected", marks=pytest.mark.long),
    ],
)
def test_no_step_of_the_clock_keeps_an_anomaly_from_the_fleet(
    tmp_path: Path, steps: tuple[float, ...], is_cut_off: bool
) -> None:
    rows = np.concatenate([healthy(100), *([faulty(10), healthy(20, 9) * 0.5] * 6)])
    with (
        agents_broker(tmp_path) as broker,
        Road(broker.port, dialled=lambda: broker.client_tls(broker.certificates.device(DEVICE))) as road,
    ):
        config = write_device(
            tmp_path / "d",
            rows=rows,
            speed=60.0,
            mqtt_url=f"mqtt://127.0.0.1:{road.listen}",
            bundle=make_bundle(),
            extra="[outbox]\nresend_s = 0.5\n",
        )
        faults = MachineFaults(tmp_path, root=tmp_path / "d" / "state")
        fleet = ListeningFleet(broker)
        with running_agent(config, faults.environment()) as agent:

            def opened() -> int:
                count = health_of_status(config).get("anomalies", 0)
                assert isinstance(count, int)
                return count

            def wait_for(more: int, arrived: Callable[[], int], what: str) -> None:
                wait_until(
                    lambda: arrived() >= more, what, unless=lambda: died(agent, tmp_path / "d" / "agent.log")
                )

            for step in steps:
                if is_cut_off:
                    road.close()
                    wait_for(opened() + 1, opened, "an anomaly before the step")
                faults.step_clock(step)
                wait_for(opened() + 2, opened, "anomalies after the step")
                road.is_open = True
                wait_for(opened(), lambda: len(fleet.of(Kind.ANOMALY)), f"all after a step to {step:+.0f} s")
            assert health_of_status(config).get("outbox_evicted", 0) == 0
        fleet.close()
