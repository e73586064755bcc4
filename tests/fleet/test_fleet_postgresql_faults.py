"""PostgreSQL that crashes, restarts or becomes read-only below a running fleet: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import pytest
from databases import PostgresqlServer
from fleet_world import Machine, anomaly, fleet_process
from test_fleet_service import Site, is_connected
from waiting import AMPLE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
EVENTS = 300
RESEND_S = 2.0


def test_a_database_that_crashes_and_one_that_is_read_only_cost_no_event_and_no_restart_of_the_fleet(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    site = Site(tmp_path, f"postgresql+psycopg://fedge@/fleet?host={server.folder}")
    machine = Machine(name="press-1")
    events = {n: machine.event(anomaly(window_index=n), sequence=n) for n in range(1, EVENTS + 1)}
    with site.broker(), fleet_process(site.config, site.log) as (child, url):
        wait_until(lambda: is_connected(url), "the fleet to reach the broker")
        client = site.enrol(url, machine)

        def acked() -> set[int]:
            return {number for _, number in client.acked}

        def send(first: int, last: int) -> None:
            for number in range(first, last + 1):
                client.publish(events[number])

        def resend_until_all_are_acked(last: int) -> None:
            sent_s = float("-inf")

            def resend() -> bool:
                nonlocal sent_s
                missing = set(range(1, last + 1)) - acked()
                if missing and time.monotonic() - sent_s > RESEND_S:
                    sent_s = time.monotonic()
                    for number in missing:
                        client.publish(events[number])
                return not missing

            wait_until(resend, "every event to be acknowledged", progress=lambda: len(client.acked))

        send(1, 100)
        wait_until(acked, "the first acknowledgement")
        server.stop(signal.SIGQUIT)
        before = acked()
        send(101, 150)
        answer = httpx.get(f"{url}/v1/anomalies", headers={"Authorization": "Bearer fo_x"}, timeout=AMPLE_S)
        assert answer.status_code >= 500, "an API without its database says so, and does not hang"
        server.start()
        assert before <= set(site.stored())
        resend_until_all_are_acked(150)

        server.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        wait_until(lambda: "read-only" in _refusal(server), "the database to be read-only")
        send(151, 200)
        wait_until(lambda: "read-only" in site.log.read_text(), "the fleet to say so")
        assert acked() <= set(range(1, 151)), "what is not stored is not acknowledged"
        server.run(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )
        resend_until_all_are_acked(200)

        server.stop(signal.SIGINT)
        server.start()
        send(201, EVENTS)
        resend_until_all_are_acked(EVENTS)
        client.close()
        assert child.poll() is None
        assert site.stored() == list(range(1, EVENTS + 1))


def _refusal(server: PostgresqlServer) -> str:
    try:
        server.run("CREATE TABLE probe (x integer)", "DROP TABLE probe")
    except Exception as error:  # noqa: BLE001 - whatever it says is the answer
        return str(error)
    return ""
