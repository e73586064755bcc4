"""Hollow devices on a real fleet and a real Mosquitto: they do what agents do, and their accounts are exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, update
from waiting import wait_until

from fleet.storage.base import open_database
from fleet.storage.event_tables import Anomaly
from simulations.errors import ScenarioError
from simulations.hollow.accounts import settle_accounts
from simulations.hollow.assembly import Plan, make_crowd, make_plan, save_crowd
from simulations.hollow.beside import at_work
from simulations.hollow.crowd import Crowd, Pace
from simulations.hollow.own_fleet import FAMILY, OwnFleet
from simulations.mosquitto import BrokerChoice, choose_broker
from simulations.processes import Supervisor

DEVICES = 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnFleet]:
    home = tmp_path_factory.mktemp("hollow")
    try:
        choose_broker(BrokerChoice.MOSQUITTO)
    except ScenarioError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    with Supervisor(home / "logs") as supervisor:
        own = OwnFleet(home, supervisor)
        own.start()
        yield own


def crowd_of(fleet: OwnFleet, **how: float) -> Crowd:
    pace = Pace(health_s=1.0, install_s=0.2, resend_s=1.0)
    plan = Plan(devices=DEVICES, pace=pace, **how)  # type: ignore[arg-type]
    folder = fleet.site.plant.folder
    return make_crowd(
        plan, fleet.place, folder, lambda count: fleet.site.claims(FAMILY, "hollow", count), lambda *_: None
    )


def roll_out(api: httpx.Client, version: int) -> str:
    plan = {"name": f"v{version}", "release": f"{FAMILY}/{version}", "groups": [{"percentage": 100}]}
    made = api.post("/v1/rollouts", json=plan)
    assert made.status_code == 201, made.text
    rollout = str(made.json()["id"])
    started = api.post(f"/v1/rollouts/{rollout}:start")
    assert started.status_code == 200, started.text
    return rollout


@pytest.mark.slow
def test_hollow_devices_obey_a_rollout_and_lose_nothing_while_fleet_and_broker_are_killed(
    fleet: OwnFleet,
) -> None:
    crowd = crowd_of(fleet)
    ledger = crowd.ledger
    with at_work(crowd) as work, fleet.client() as api:
        wait_until(lambda: crowd.connected == DEVICES, "all devices to connect")
        crowd.pace.events_per_s = 40.0
        rollout = roll_out(api, 1)
        wait_until(lambda: ledger.ended["SUCCEEDED"] == DEVICES, "the release on every device")
        wait_until(
            lambda: api.get(f"/v1/rollouts/{rollout}").json()["state"] == "COMPLETED", "the rollout's end"
        )
        for name in ("fleet", "broker"):
            acknowledged = ledger.acked
            fleet.supervisor.kill(name)
            wait_until(
                lambda seen=acknowledged: (fleet.supervisor.tick(), ledger.acked > seen + 100)[1],
                f"acknowledgements after {name} was killed",
                progress=lambda: ledger.acked,
            )
        wait_until(lambda: crowd.connected == DEVICES, "all devices to be back")
        assert ledger.losses >= DEVICES
        assert work.settle(lambda: False)
        save_crowd(fleet.site.plant.folder, crowd)
    assert (ledger.forged, ledger.unknown_acks, ledger.late) == (0, 0, 0)
    assert {notice.device for notice in ledger.notices} == {device.name for device in crowd.devices}
    with closing(open_database(fleet.database_url)) as database:
        accounts = settle_accounts(database, crowd.devices)
        assert accounts.are_right, accounts
        assert accounts.acknowledged == ledger.acked == ledger.total
        # and the accounts see what is wrong
        with database.write() as session:
            lost = session.query(Anomaly).filter_by(device=crowd.devices[0].name).first()
            assert lost is not None
            strange = session.query(Anomaly).filter_by(device=crowd.devices[1].name).first()
            assert strange is not None
            session.execute(delete(Anomaly).where(Anomaly.id == lost.id))
            session.execute(update(Anomaly).where(Anomaly.id == strange.id).values(sequence=10_000_000))
        accounts = settle_accounts(database, crowd.devices)
        assert (accounts.missing, accounts.strange) == (2, 1)


@pytest.mark.slow
def test_a_crowd_that_comes_again_is_the_same_devices_in_their_next_start(fleet: OwnFleet) -> None:
    crowd = crowd_of(fleet)
    with at_work(crowd) as work, fleet.client() as api:
        wait_until(lambda: crowd.connected == DEVICES, "all devices to connect")
        assert work.settle(lambda: False)
        shown = api.get(f"/v1/devices/{crowd.devices[0].name}").json()
    assert not crowd.ledger.notices, "the desired state that each of them obeyed before is no news"
    assert shown["release"] == f"{FAMILY}/1"


@pytest.mark.slow
def test_a_crowd_joins_where_an_agent_would_and_ends_in_order_by_sigint(
    fleet: OwnFleet, tmp_path: Path
) -> None:
    pki, claims = fleet.site.plant, tmp_path / "claims"
    claims.write_text("\n".join(fleet.site.claims(FAMILY, "hollow", 2)))
    (tmp_path / "agent.toml").write_text(
        f"""
        state_dir = "state"
        tenant = "{fleet.site.plant.tenant}"
        family = "{FAMILY}"
        hardware = "x86"
        [trust]
        root = "{fleet.site.plant.root_file}"
        [fleet]
        url = "{fleet.url}"
        ca_file = "{pki.ca}"
        [mqtt]
        url = "{fleet.addresses.broker_url}"
        ca_file = "{pki.ca}"
        [source]
        kind = "simulated"
        """
    )
    said = interrupted_crowd(
        tmp_path,
        *("--join", str(tmp_path / "agent.toml"), "--claims", str(claims), "--set", "prefix=guest"),
        *("--database-url", fleet.database_url),
    )
    assert "in the database: missing" in said
    with fleet.client() as api:
        guest = api.get("/v1/devices/guest-00002").json()
        wait_until(lambda: not api.get("/v1/devices/guest-00002").json()["online"], "the farewell")
    assert (guest["hardware"], guest["site"]) == ("x86", "hollow")


@pytest.mark.long
def test_sigint_leaves_neither_a_process_nor_a_folder_of_an_own_fleet(tmp_path: Path) -> None:
    assert "in the database: missing" in interrupted_crowd(tmp_path)


def interrupted_crowd(folder: Path, *options: str) -> str:
    """What a crowd of two says that is interrupted once it is connected; it must have left nothing."""
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120"}
    command = [sys.executable, "-m", "simulations", "hollow", "--devices", "2", "--health-s", "1", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if line.startswith("2 of 2 connected"):
                child.send_signal(signal.SIGINT)
                break
        said += child.stdout.read()
    assert child.returncode == 0, said
    assert not list(temporary.iterdir())
    environments = [_read(one) for one in Path("/proc").glob("[0-9]*/environ")]
    assert not any(str(temporary).encode() in one for one in environments)
    return said


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("instal_s=2", "valid names are"),
        ("install_s=soon", "is no float"),
        ("failure_share=2", "0 to 1 are valid"),
    ],
)
def test_what_is_set_wrongly_is_told_with_what_would_be_valid(given: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        make_plan(1, health_s=1.0, events_per_s=0.0, more=[given])
