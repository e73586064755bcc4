"""Bad input at the outermost door: each program, as its own process, answers in one clear line and never with a traceback.

The rules behind each line are tested beside their packages; this file proves that a person really gets the line. A NaN
update has its door in Flower's protocol: `tests/aggregator/test_flower_rounds.py` sends one over a real TLS connection.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from agent_world import healthy, running_agent, write_device
from command_line import run_command
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_world import (
    TENANT,
    DeviceClient,
    Machine,
    anomaly,
    broker_process,
    bundle,
    fleet_process,
    make_claims,
    make_trust,
    operator_token,
    shown_by,
)
from free_ports import free_port
from mosquitto_broker import LocalCertificates
from secret_file import secret_file
from waiting import AMPLE_S, wait_until

from aggregator.release_keys import create_key_files
from fleet.migrations.upgrade import open_storage
from protocol.messages.envelope import encode
from protocol.messages.kinds import Kind
from service.roles import Role

pytestmark = pytest.mark.slow


def refusal(program: str, *arguments: str) -> str:
    """What `program`, as a process, says on standard error before it ends with a status that is not 0: one line."""
    command = [sys.executable, "-m", program, *arguments]
    return one_line(subprocess.run(command, capture_output=True, text=True, check=False))


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode not in {0, -6, -11}, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert not done.stdout.strip()
    return lines[0]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A fleet and its broker as processes, with a publisher's token and an enrolled device."""

    url: str
    token_file: Path
    device: DeviceClient
    machine: Machine
    log: Path

    def publish(self, content: bytes) -> str:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        answer = httpx.post(f"{self.url}/v1/releases", content=content, headers=headers, timeout=AMPLE_S)
        assert answer.status_code == 422
        return str(answer.json()["detail"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port, certificates = free_port(), LocalCertificates(folder / "pki")
    make_trust(folder / "data")
    certificates.service("fleet")
    config, log = folder / "fleet.toml", folder / "fleet.log"
    config.write_text(
        f'listen = "127.0.0.1:0"\ndata_dir = "data"\ntenant = "{TENANT}"\n'
        f'[mqtt]\nurl = "mqtts://127.0.0.1:{port}"\nca_file = "pki/ca.pem"\ntls_cert = "pki/fleet.pem"\n'
        'tls_key = "pki/fleet.key"\nshut_out = "file"\nshut_out_file = "shut-out"\nreconnect_s = 0.1\n'
    )
    machine = Machine(name="press-1")
    with (
        fleet_process(config, log) as (_, url),
        broker_process(port, folder, certificates),
    ):
        database = open_storage(f"sqlite:///{folder}/data/fleet.sqlite")
        with database.write() as session:
            secret_file(folder / "token", operator_token(session, "agg", Role.PUBLISHER))
        (claim,) = make_claims(database, now=time.time())
        database.close()
        headers = {"Authorization": f"Bearer {claim}"}
        answer = httpx.post(
            f"{url}/v1/enrolments", json=machine.enrolment(), headers=headers, timeout=AMPLE_S
        )
        own = shown_by(machine, answer.json()["certificate"], folder)
        device = DeviceClient(port, machine.name, certificates.context(own))
        wait_until(lambda: "broker_connected" in log.read_text(), "the fleet to reach the broker")
        yield Site(url=url, token_file=folder / "token", device=device, machine=machine, log=log)
        device.close()


def flipped(content: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[-1] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (flipped(bundle(3)), r"does not have the SHA-256 its manifest promises; fetch it again"),
        (bundle(3, key=Ed25519PrivateKey.generate()), "which is not trusted here"),
        (bundle(3, changed={"training.tflite": b"of other layers"}), "was built for another layout"),
        (bundle(3)[:100], "is too short for its manifest"),
        (b"GIF89a", "not a Fedge model bundle"),
    ],
    ids=["a flipped byte", "another key", "another layout", "truncated", "no bundle"],
)
def test_a_bundle_that_is_not_right_is_not_published(site: Site, content: bytes, says: str) -> None:
    assert says in site.publish(content)


def test_a_truncated_and_an_unknown_message_are_one_log_line_each_and_the_fleet_goes_on(site: Site) -> None:
    event = site.machine.event(anomaly())
    whole = encode(event)
    site.device.publish_raw(Kind.ANOMALY, whole[: len(whole) // 2])
    site.device.publish_raw(Kind.ANOMALY, whole.replace(b".v1", b".v9"))
    site.device.publish(event)
    wait_until(lambda: ("boot-1", event.sequence) in site.device.acked, "the acknowledgement of the good one")
    log = site.log.read_text()
    told = [line for line in map(json.loads, log.splitlines()) if line["event"] == "message_refused"]
    assert [line["reason"] for line in told] == ["malformed", "version"]
    assert "truncated" in told[0]["detail"]
    assert "has version 9; this build speaks version 1: upgrade the older side" in told[1]["detail"]
    assert "Traceback" not in log


def test_a_config_with_a_typo_names_the_key_that_was_meant(tmp_path: Path) -> None:
    device = write_device(tmp_path / "device", rows=healthy(10))
    device.write_text(device.read_text().replace("family =", "famly ="))
    assert "did you mean 'family'?" in refusal("edge_agent", "run", "--config", str(device))
    assert "did you mean 'family'?" in one_line(
        run_command("edge_agent", "check-config", "--config", str(device))
    )
    service = tmp_path / "service.toml"
    service.write_text('lisen = "127.0.0.1:1"\n')
    for program in ("fleet", "aggregator"):
        assert "did you mean 'listen'?" in refusal(program, "serve", "--config", str(service))
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("devises = 3\n")
    assert "devises" in refusal("simulations", "run", str(scenario))
    service.write_text("listen = ")
    for program in ("fleet", "aggregator"):
        assert "not valid TOML" in one_line(run_command(program, "serve", "--config", str(service)))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("rms,peak\n1,2\n", "no column 'kurtosis'; there are rms, peak"),
        (
            "rms,kurtosis\n1,2\n3,many\n",
            "rows.csv:3: column 'kurtosis' holds 'many', which is not a finite number",
        ),
        ("rms,kurtosis\n1,2\n3\n", "rows.csv:3: 1 cells, but the header names 2 columns"),
        ("", "rows.csv is empty: it has 0 bytes"),
    ],
    ids=["a missing column", "text in a number", "a short line", "empty"],
)
def test_a_csv_that_is_not_right_names_the_place(tmp_path: Path, table: str, says: str) -> None:
    config = write_device(tmp_path / "device", rows=healthy(10))
    (config.parent / "rows.csv").write_text(table)
    source = '[source]\nkind = "replay"\npath = "rows.csv"\ncolumns = ["rms", "kurtosis"]\n'
    config.write_text(config.read_text().partition("[source]")[0] + source)
    assert says in refusal("edge_agent", "run", "--config", str(config))


def archive(**members: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **members)  # type: ignore[arg-type]  # numpy's stub wants named keywords
    return stream.getvalue()


ROWS = np.ones((9, 2), np.float32)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npz", b"", "is empty"),
        ("x.npz", archive(a=ROWS)[:200], "as if it had been cut off"),
        ("x.npz", archive(a=ROWS).replace(ROWS.tobytes(), bytes(ROWS.nbytes)), "is damaged: Bad CRC-32"),
        ("x.npz", archive(a=ROWS.astype(object)), "holds Python objects"),
        ("x.npz", archive(a=ROWS * 1j), "holds complex numbers"),
        ("x.npz", archive(a=ROWS.astype("M8[s]")), "holds dates"),
        ("x.npz", archive(a=ROWS, feature_names=np.array(["rms", "rms"])), "both named 'rms'"),
        ("x.npz", archive(a=ROWS, feature_names=np.array(["rms", "peak"])), "no column 'kurtosis'"),
        ("x.npz", b"rms,kurtosis\n1,2\n", "is no NPZ archive"),
        ("x.csv", archive(a=ROWS), "is no CSV file, but a zip archive"),
        ("x.csv", "rms,kurtosis\n1,2\n".encode("utf-16"), "text in UTF-16"),
        ("x.csv", b"rms,rms,kurtosis\n1,2,3\n", "columns 1 and 2 are both named 'rms'"),
        ("x.csv", b"1.5,2.5\n1.6,2.4\n", "the first line must name the columns"),
        ("x.csv", b"rms,kurtosis\n1_000,2\n", "without underscores"),
        ("x.csv", b"rms;kurtosis\n1;2\n", "is delimiter = ';' meant?"),
    ],
)
def test_a_recording_that_is_none_is_one_line_in_either_program(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    config = write_device(tmp_path / "device", rows=healthy(10))
    path = config.parent / name
    path.write_bytes(content)
    source = f'[source]\nkind = "replay"\npath = "{name}"\nkey = "a"\ncolumns = ["rms", "kurtosis"]\n'
    config.write_text(config.read_text().partition("[source]")[0] + source)
    (tmp_path / "family.toml").write_text(
        'family = "pump"\n[model]\nlayers = [2, 1, 2]\n[features]\nkind = "passthrough"\nnames = ["rms", "kurtosis"]\n'
    )
    create_key_files(tmp_path / "release.key", Ed25519PrivateKey.generate())
    train = (
        *("initial-release", "--features", str(path), "--spec", str(tmp_path / "family.toml")),
        *("--signing-key", str(tmp_path / "release.key"), "--out", str(tmp_path / "v1.fedge")),
    )
    assert says in one_line(run_command("edge_agent", "check-config", "--config", str(config)))
    assert says in one_line(run_command("aggregator", *train))


def test_a_port_in_use_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "fleet.toml").write_text(f'listen = "{address}"\ndata_dir = "data"\ntenant = "demo"\n')
        line = refusal("fleet", "serve", "--config", str(tmp_path / "fleet.toml"))
        assert f"cannot listen on {address}" in line
        assert "choose another" in line
        certificates = LocalCertificates(tmp_path)
        line = refusal(
            "simulations.broker", "--listen", address, "--tenant", "demo", "--shut-out", str(tmp_path / "shut-out"),
            "--clients", str(certificates.clients_file), "--certificate", str(certificates.certificate), "--key", str(certificates.key),
        )  # fmt: skip
        assert f"cannot listen on {address}" in line


def test_without_a_broker_the_agent_says_so_once_and_watches_on(tmp_path: Path) -> None:
    address = f"mqtt://127.0.0.1:{free_port()}"
    config = write_device(tmp_path / "device", rows=np.tile(healthy(100), (5, 1)), mqtt_url=address)
    log = config.parent / "agent.log"
    with running_agent(config) as agent:
        wait_until(lambda: log.exists() and "broker_unreachable" in log.read_text(), "the line")
        assert agent.poll() is None
        agent.terminate()
        assert agent.wait() == 0
    told = [line for line in log.read_text().splitlines() if "broker_unreachable" in line]
    assert len(told) == 1
    assert f"{address}: " in told[0]
    assert "is the broker running and reachable? The agent goes on and keeps trying." in told[0]
    assert "Traceback" not in log.read_text()
