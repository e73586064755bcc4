"""The aggregator that a seeded fleet asks: its real API over real TLS, with a past of runs that nobody computed.

Runs and the privacy ledger are written by the aggregator's own stores; only the learning between is left out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aggregator_api_world import Service
from aggregator_world import FAMILY, POLICY
from ledger_world import NOISE, fixed, play
from mosquitto_broker import LocalCertificates
from msgspec.structs import replace
from secret_file import secret_file
from seeded_releases import provenance, run_name
from seeded_story import HOUR, MOTORS, SCRIPT
from waiting import wait_until

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.settings import FamilyBudget
from aggregator.rounds.runs import Check, RefusedDevice, RoundRecord, RunState, TrainingRun
from protocol.names import DeviceId, FamilyName, RunId
from service.addresses import Endpoint
from service.connections import ConnectionBook
from service.https_server import HttpsServer
from service.listening import bind
from service.roles import Role
from service.served_certificate import ServedCertificate

__all__ = ["REFUSED_RUN", "aggregator_beside"]

REFUSED_RUN: Final = "run-motor-refused"
WHY: Final = "loss 0.0412 against the champion's 0.0380: -8.42% is not enough (at least +1.00%)"
COHORT: Final = tuple(DeviceId(name) for name in MOTORS[:20])


@contextmanager
def aggregator_beside(
    folder: Path, certificates: LocalCertificates, *, is_polite: bool = False
) -> Iterator[str]:
    """An aggregator that answers until the block ends; gives the ``[aggregator]`` of fleet.toml."""
    folder.mkdir()
    service = Service(folder, POLICY)
    limits = FamilyBudget(epsilon_server=32.0, maximum_participations=40)
    accounts = PrivacyAccounts(folder / "ledger.sqlite", {FamilyName("motor"): limits}, now=time.time)
    service.api.state.privacy = accounts
    _tell_past(service, accounts, time.time(), "" if is_polite else f" {SCRIPT}")
    token = secret_file(
        folder / "token", service.headers[Role.VIEWER]["Authorization"].removeprefix("Bearer ")
    )
    listener = bind(Endpoint("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    shown = ServedCertificate(certificates.certificate, certificates.key, time.time)
    server = HttpsServer(service.api, shown, ConnectionBook())
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        wait_until(lambda: server.started, "the aggregator's API")
        yield (f'[aggregator]\nurl = "{url}"\nca_file = "{certificates.ca_file}"\ntoken_file = "{token}"\n')
    finally:
        server.should_exit = True
        thread.join()
        accounts.close()
        service.close()


def _tell_past(service: Service, accounts: PrivacyAccounts, now: float, evil: str) -> None:
    for number in range(1, 9):
        play(accounts, number, COHORT, noise=NOISE, sampling=fixed(20, 24), run=run_name("motor", 2))
    for number in range(1, 4):
        play(accounts, number, COHORT, noise=NOISE, sampling=fixed(20, 24), run=REFUSED_RUN)
    good = _run(run_name("motor", 2), "motor", now - 21 * HOUR, RunState.COMPLETED, 8, evil)
    service.store.add(
        replace(
            good,
            release="motor/2",
            detail="published as motor/2",
            candidate_loss=0.031,
            champion_loss=0.038,
            alarm_rate=0.0009,
            int8_error=0.004,
            checks=(
                Check(
                    name="improvement",
                    value=0.184,
                    limit=0.01,
                    is_passed=True,
                    reason="18.4% better, at least 1%",
                ),
            ),
        )
    )
    refused = _run(REFUSED_RUN, "motor", now - 5 * HOUR, RunState.REJECTED_BY_GATE, 3, evil)
    checks = (
        Check(name="improvement", value=-0.0842, limit=0.01, is_passed=False, reason=WHY),
        Check(
            name="alarm_rate",
            value=0.0008,
            limit=0.001,
            is_passed=True,
            reason="0.8 alarms in 1000 windows; at most 1",
        ),
        Check(
            name="int8_error",
            value=0.004,
            limit=0.02,
            is_passed=True,
            is_warning=True,
            reason=f"int8 error 0.004{evil}",
        ),
    )
    service.store.add(
        replace(
            refused,
            checks=checks,
            candidate_loss=0.0412,
            champion_loss=0.038,
            detail=f"the gate refused it: {WHY}",
        )
    )
    broken = _run("run-pump-failed", FAMILY, now - 3 * HOUR, RunState.FAILED, 1, evil)
    service.store.add(replace(broken, detail=f"2 of 8 devices came, 6 are needed{evil}"))
    service.store.add(_run("run-motor-now", "motor", now - 600, RunState.ROUND, 2, evil, ended=False))


def _run(
    run: str, family: str, began: float, state: RunState, rounds: int, evil: str, *, ended: bool = True
) -> TrainingRun:
    last = began + 300.0 * rounds
    return TrainingRun(
        id=RunId(run),
        family=FamilyName(family),
        trigger="drift",
        reason=f"3 of 24 devices have drifted{evil}",
        requested_by="aggregator",
        rounds=8,
        state=state,
        created_at=began,
        updated_at=last,
        ended_at=last if ended else None,
        mode="private",
        protection="one noised sum of the whole cohort",
        finished_rounds=rounds,
        log=(
            *(_round("fit", number, began, evil) for number in range(1, rounds + 1)),
            _round("assess", 1, last, evil),
        ),
        base_release=f"{family}/1",
        privacy=provenance("motor", 2).privacy,
    )


def _round(kind: str, number: int, began: float, evil: str) -> RoundRecord:
    return RoundRecord(
        kind=kind,
        number=number,
        attempt=1,
        started_at=began + 300.0 * (number - 1),
        seconds=212.5,
        asked=20,
        participants=COHORT[:17],
        refused=(RefusedDevice(device=COHORT[17], reason=f"beyond the clip{evil}"),),
        lost=(COHORT[18], COHORT[19]),
        spared=(),
        stages={COHORT[18]: "masks", COHORT[19]: "answer"},
        examples=5213,
        loss_before=0.038 if kind == "assess" else None,
        loss_after=0.038 / (1 + number / 40) if kind == "assess" else None,
    )
