"""The fleet reads what the real aggregator says: each of its answers, over real TLS, with a token of role viewer."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import msgspec
import trustme
from aggregator_api_world import Service
from aggregator_world import FAMILY, POLICY
from ledger_world import COHORT, EVERYBODY, NOISE, play
from ledger_world import FAMILY as MOTOR
from secret_file import secret_file
from waiting import wait_until

from aggregator.rounds.runs import Check, RefitRecord, RefusedDevice, RoundRecord, RunState
from fleet.aggregator_answers import DevicePrivacy, FamilyPrivacies, RunPage, TrainingRun
from fleet.aggregator_client import AggregatorClient, open_aggregator
from fleet.settings import AggregatorSettings
from service.addresses import Endpoint
from service.connections import ConnectionBook
from service.https_server import HttpsServer
from service.listening import bind
from service.roles import Role
from service.served_certificate import ServedCertificate

REFUSAL = "loss 2 against the champion's 1: -100.00% is not enough (at least +0.00%)"


def a_refused_run(service: Service) -> str:
    """One whose candidate was worse, with a round of everything that may be in a round."""
    run = service.scheduler.start_run(FAMILY, trigger="person", reason="why", requested_by="me", rounds=1)
    asked = RoundRecord(
        kind="fit",
        number=1,
        attempt=1,
        started_at=1.0,
        seconds=2.0,
        asked=3,
        participants=("a", "b"),  # type: ignore[arg-type] # names of devices
        refused=(RefusedDevice(device="c", reason="beyond the clip"),),  # type: ignore[arg-type]
        lost=(),
        spared=(),
    )
    play(service.accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY, run=run.id)
    service.store.save(
        msgspec.structs.replace(
            run,
            state=RunState.REJECTED_BY_GATE,
            ended_at=5.0,
            log=(asked, msgspec.structs.replace(asked, kind="assess", loss_before=1.0, loss_after=2.0)),
            checks=(Check(name="improvement", value=-1.0, limit=0.0, is_passed=False, reason=REFUSAL),),
            refit=RefitRecord(reason="none"),
            privacy=service.accounts.claim(MOTOR, run.id),
            detail="the gate refused it",
        )
    )
    return run.id


async def read_all(client: AggregatorClient, run: str) -> None:
    page = (await client.get(RunPage, "training-runs", limit=1)).what
    assert page is not None
    assert [one.id for one in page.items] == [run]
    full = (await client.get(TrainingRun, "training-runs", run)).what
    assert full is not None
    assert [check.reason for check in full.failed_checks] == [REFUSAL]
    assert full.rounds[0].refused[0].reason == "beyond the clip"
    assert (full.assessments[0].loss_after, full.rounds[0].void) == (2.0, False)
    assert full.privacy is not None
    assert full.privacy.server.epsilon
    families = (await client.get(FamilyPrivacies, "privacy")).what
    assert families is not None
    assert [one.family for one in families.items] == [MOTOR, FAMILY]
    device = (await client.get(DevicePrivacy, "privacy", "devices", COHORT[0])).what
    assert device is not None
    assert device.families[0].runs[0].run == run
    nothing = await client.get(TrainingRun, "training-runs", "run-0")
    assert (nothing.is_missing, "run-0" in nothing.trouble) == (True, True)
    await client.close()


def test_every_answer_of_the_real_aggregator_is_understood(tmp_path: Path) -> None:
    service = Service(tmp_path, POLICY)
    run = a_refused_run(service)
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    authority.cert_pem.write_to_path(ca)
    token = secret_file(
        tmp_path / "token", service.headers[Role.VIEWER]["Authorization"].removeprefix("Bearer ")
    )
    listener = bind(Endpoint("127.0.0.1", 0))
    settings = AggregatorSettings(
        url=f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file=ca, token_file=token
    )
    server = HttpsServer(service.api, ServedCertificate(cert, key, time.time), ConnectionBook())
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        wait_until(lambda: server.started, "the aggregator's API")
        asyncio.run(read_all(open_aggregator(settings), run))
    finally:
        server.should_exit = True
        thread.join()
        service.close()
