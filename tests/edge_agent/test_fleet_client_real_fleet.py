"""A device behind a firewall that blocks MQTT, against the real fleet service: enrol, ask, fetch, install, be revoked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from command_line import run_command
from https_world import make_certificate
from installation_world import RELEASE_KEY, REQUIREMENTS, TrustingProbe, make_bundle
from trust_world import Keys, make_repository, next_list
from waiting import died, wait_until

from edge_agent.enrolment import enrol_device
from edge_agent.errors import FleetDeniedError
from edge_agent.fleet_client import FleetClient, FleetEndpoint
from edge_agent.identity_key import load_device_key
from edge_agent.installation.assembly import open_installer
from edge_agent.installation.effects import InstallLimits
from edge_agent.installation.trial import TrialLimits
from edge_agent.settings import FleetSettings, Settings, TrustSettings
from edge_agent.update_trust import UpdateTrust
from edge_agent.update_trust_files import TrustFiles
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import CommandStatus, InstallStatus
from protocol.messages.payloads import DesiredState
from protocol.sealed_events import seal

pytestmark = pytest.mark.slow


class Fleet:
    """``fedge-fleet`` as a process of its own, without a broker."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.log, self.config = folder, folder / "fleet.log", folder / "fleet.toml"
        self.ca, _, _ = make_certificate(folder)
        self.repository = make_repository(folder / "data", Keys(families={"pump": RELEASE_KEY}))
        self.config.write_text(
            'listen = "127.0.0.1:0"\ntls_cert = "tls.pem"\ntls_key = "tls.key"\ndata_dir = "data"\n'
            'tenant = "demo"\n'
            '[mqtt]\nurl = "mqtt://127.0.0.1:9"\nshut_out = "none"\n'
        )
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        with self.log.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "fleet", "serve", "--config", str(self.config)], stdout=log, stderr=log
            )
        try:
            self.url = wait_until(self._told_url, "the fleet to listen", unless=lambda: died(child, self.log))
            self.endpoint = FleetEndpoint(url=self.url, ca_file=self.ca)
            yield
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _told_url(self) -> str:
        _, _, rest = self.log.read_text().partition('"url": "')
        url, end, _ = rest.partition('"')
        return url if end else ""

    def cli(self, *arguments: str) -> str:
        done = run_command("fleet", *arguments, "--config", str(self.config))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def call(self, token: str, path: str, body: bytes = b"") -> dict[str, object]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = self.endpoint.exchange("POST", path, headers=headers, body=body)
        decoded: dict[str, object] = msgspec.json.decode(answer.body or b"{}")
        return decoded


def test_a_device_lives_on_https_alone(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    (tmp_path / "claim.token").write_text(fleet.cli("claims", "create", "--family", "pump", "--unreleased"))
    admin = fleet.cli("tokens", "create", "--role", "admin", "--name", "a", "--person", "a")
    publisher = fleet.cli("tokens", "create", "--role", "publisher", "--name", "p", "--family", "*")
    with fleet.serving():
        settings = Settings(
            state_dir=tmp_path / "state",
            tenant="demo",
            family="pump",
            hardware="rpi4",
            source={"kind": "simulated"},  # type: ignore[arg-type]  # not looked at here
            trust=TrustSettings(root=tmp_path / "root.json"),
            fleet=FleetSettings(url=fleet.url, ca_file=fleet.ca, claim_token_file=tmp_path / "claim.token"),
        )
        enrolled = enrol_device(settings)
        assert enrol_device(settings).device == enrolled.device, "enrolling again is harmless"
        key = load_device_key(settings.paths.device_key)
        client = FleetClient(endpoint=fleet.endpoint, device=enrolled.device, key=key)
        assert client.desired().state is None
        for year in (1970, 2046):  # a board without a battery, and a broken one
            lost = FleetClient(
                endpoint=fleet.endpoint,
                device=enrolled.device,
                key=key,
                clock=lambda year=year: (year - 1970) * 365.25 * 86_400.0,  # type: ignore[misc]  # the year of now
            )
            assert lost.desired().state is None, (
                "its token was refused, and made once more by the fleet's time"
            )

        content = make_bundle(1)
        fleet.call(publisher, "/v1/releases", content)
        role, _, listed = next_list(fleet.repository, {"pump/1": content}, RELEASE_KEY)
        fleet.call(publisher, f"/v1/trust/roles/{role}", listed)
        plan = {"name": "first", "release": "pump/1", "groups": [{"percentage": 100}]}
        rollout = fleet.call(admin, "/v1/rollouts", msgspec.json.encode(plan))
        fleet.call(admin, f"/v1/rollouts/{rollout['id']}:start")
        desired, etag = _wanted(client)
        assert desired.release == "pump/1"
        assert client.desired(etag).is_unchanged

        trust = UpdateTrust(
            root=fleet.repository.read("1.root.json"),
            files=TrustFiles(tmp_path / "trust"),
            family="pump",
            fetch=client.trust_file,
            earliest_s=time.time,
        )
        installer = open_installer(
            journal_file=settings.paths.install_journal,
            bundles=settings.paths.bundles,
            trust=trust,
            requirements=REQUIREMENTS,
            source=client,
            limits=InstallLimits(trial=TrialLimits(windows=2)),
            probe=TrustingProbe(),
        )
        try:
            installer.submit(desired)
            installer.run_pending()
            for _ in range(2):
                assert installer.active() is not None
                installer.on_window(0.1, 10.0)
            installer.run_pending()
            assert installer.poll()[-1].status is InstallStatus.SUCCEEDED
        finally:
            installer.close()
        # A download that broke off goes on where it ended, on the real service as well.
        with client.bundle(desired.bundle_path, offset=1000) as stream:
            assert (stream.offset, b"".join(stream.chunks)) == (1000, make_bundle(1)[1000:])

        assert client.commands().state is None
        asked = fleet.call(admin, f"/v1/devices/{enrolled.device}/commands", b'{"action": "diagnose"}')
        word = client.commands()
        assert word.state is not None
        assert isinstance(word.state.data, Commands)
        assert [command.number for command in word.state.data.outstanding] == [asked["number"]]
        assert client.commands(word.etag).is_unchanged
        (command,) = word.state.data.outstanding
        done = CommandResult(
            number=command.number, action="diagnose", status=CommandStatus.DONE, report="YnVuZGxl"
        )
        said = Event(source=enrolled.device, boot_id="b", sequence=1, time=time.time(), data=done)
        sealed = seal(said, key, tenant="demo", device=enrolled.device, nonce="ab" * 16)
        for _ in range(2):
            client.tell_result(encode(sealed))
        told = client.commands(word.etag).state
        assert told is not None
        assert told.data == Commands(counter=asked["number"])

        fleet.call(
            admin, f"/v1/devices/{enrolled.device}:revoke", msgspec.json.encode({"confirm": enrolled.device})
        )
        with pytest.raises(FleetDeniedError, match=r"the fleet answered 40[13]"):
            client.desired()


def _wanted(client: FleetClient) -> tuple[DesiredState, str]:
    def wanted() -> tuple[DesiredState, str] | None:
        answer = client.desired()
        if answer.state is None:
            return None
        assert isinstance(answer.state.data, DesiredState)
        return answer.state.data, answer.etag

    return wait_until(wanted, "the rollout to reach the device")
