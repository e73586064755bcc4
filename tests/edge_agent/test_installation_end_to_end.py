"""A release on its way through a real fleet service, a real Mosquitto that somebody else writes to, and a real agent."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_process_world import broker
from agent_world import DEVICE, RELEASE_KEY, healthy, make_bundle, running_agent, status_of, write_device
from free_ports import free_port
from https_world import make_certificate
from installation_world import ask
from mosquitto_broker import MosquittoBroker
from site_world import Site
from trust_world import next_list
from waiting import wait_until

from edge_agent.fleet_client import FleetEndpoint
from protocol.limits import MAX_INTEGER

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.long


class RolloutSite(Site):
    """A device with a factory bundle, and the fleet's API over HTTPS."""

    def __init__(self, folder: Path, broker: MosquittoBroker) -> None:
        port, (ca, _, _) = free_port(), make_certificate(folder)
        url = f"https://127.0.0.1:{port}"
        agent = write_device(
            folder / "device",
            rows=healthy(2000),
            speed=20.0,
            mqtt_url=broker.url,
            mqtt_ca=broker.ca_file,
            connection=broker.certificates.connection(DEVICE),
            bundle=make_bundle(1),
            extra=f'[fleet]\nurl = "{url}"\nca_file = "{ca}"\n',
        )
        super().__init__(
            folder, broker, agent, port=port, extra='tls_cert = "tls.pem"\ntls_key = "tls.key"\n'
        )
        self._endpoint = FleetEndpoint(url=url, ca_file=ca)
        self._tokens = {role: self.token(role) for role in ("admin", "publisher")}

    def call(self, role: str, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[role]}", "Content-Type": "application/json"}
        answer = self._endpoint.exchange(method, path, headers=headers, body=body)
        return msgspec.json.decode(answer.body or b"{}")

    def roll_out(self, version: int, threshold: float = 4.0) -> str:
        """Publish a release and give it to the device; returns the rollout."""
        content = make_bundle(version, threshold=threshold)
        self.call("publisher", "POST", "/v1/releases", content)
        role, _, listed = next_list(self.repository, {f"pump/{version}": content}, RELEASE_KEY)
        self.call("publisher", "POST", f"/v1/trust/roles/{role}", listed)
        plan = {"name": "r", "release": f"pump/{version}", "groups": [{"percentage": 100}]}
        rollout = self.call("admin", "POST", "/v1/rollouts", msgspec.json.encode(plan))["id"]
        self.call("admin", "POST", f"/v1/rollouts/{rollout}:start", b"")
        return str(rollout)

    def execution(self, rollout: str) -> dict[str, Any]:
        (one,) = self.call("admin", "GET", f"/v1/rollouts/{rollout}/groups/0/executions")["items"]
        found: dict[str, Any] = one
        return found


@pytest.fixture
def site(tmp_path: Path, broker: MosquittoBroker) -> RolloutSite:
    broker.start()
    return RolloutSite(tmp_path, broker)


def release_of(site: RolloutSite) -> str:
    health = status_of(site.agent).get("health", {})
    assert isinstance(health, dict)
    return str(health.get("release"))


def is_watching(site: RolloutSite) -> bool:
    return bool(status_of(site.agent).get("commissioned"))


def ended(site: RolloutSite, rollout: str) -> dict[str, Any] | None:
    one = site.execution(rollout)
    return None if one["shadow"] is None or one["state"] in {"QUEUED", "IN_PROGRESS", "DEFERRED"} else one


def test_whatever_a_hostile_broker_sends_the_fleets_next_release_gets_through_and_no_other(
    site: RolloutSite,
) -> None:
    with site.fleet(), running_agent(site.agent):
        wait_until(lambda: is_watching(site), "the device to watch")
        first = site.roll_out(2)
        told = wait_until(
            lambda: (one := site.execution(first))["state"] == "SUCCEEDED" and one, "the first release"
        )
        assert (told["shadow"]["outcome"], told["shadow"]["windows"], told["shadow"]["champion"]) == (
            "passed",
            30,
            "pump/1",
        )
        assert release_of(site) == "pump/2"

        # An older release, signed and stored at the fleet, under every kind of counter; and nonsense.
        for counter, family in ((MAX_INTEGER, "pump"), (10**9, "pump"), (MAX_INTEGER, "fan")):
            site.say_as_the_broker(ask(make_bundle(1), 1, counter, family=family))
        wait_until(lambda: "desired_refuted" in site.log_of_agent(), "the first of them to be looked up")
        wait_until(
            lambda: any("who else writes to the broker?" in p for p in status_of(site.agent)["problems"]),  # type: ignore[attr-defined]  # a list
            "the device to say so",
        )

        second = site.roll_out(3)
        wait_until(lambda: site.execution(second)["state"] == "SUCCEEDED", "the next release")
        assert release_of(site) == "pump/3"
        assert "release=pump/1 trial=True" not in site.log_of_agent()


def test_an_absurd_release_is_refused_on_the_device_before_it_was_ever_active_and_the_fleet_shows_why(
    site: RolloutSite,
) -> None:
    with site.fleet(), running_agent(site.agent):
        wait_until(lambda: is_watching(site), "the device to watch")
        for version, threshold, why in ((2, 1e-6, "deafening"), (3, 1e6, "blind")):
            rollout = site.roll_out(version, threshold)
            one = wait_until(partial(ended, site, rollout), "the refusal")
            assert one["shadow"]["outcome"] == "refused"
            assert one["shadow"]["note"].startswith(why)
            view = site.call("admin", "GET", f"/v1/rollouts/{rollout}")
            said = [line["reason"] for line in view["timeline"] if line["state"] == "REJECTED"]
            assert len(said) == 1
            assert said[0].startswith(f"refused beside the release that runs: {why}")
            assert release_of(site) == "pump/1"
        assert site.log_of_agent().count("release_adopted") == 2, "as the factory's, and as what judges"


def test_offline_with_a_damaged_bundle_and_journal_the_factorys_bundle_watches(site: RolloutSite) -> None:
    site.broker.stop()
    state = site.agent.parent / "state"
    with running_agent(site.agent) as child:
        wait_until(lambda: is_watching(site), "the device to watch")
        child.send_signal(signal.SIGKILL)
        child.wait()
    (staged,) = [path for path in (state / "bundles").glob("*.fedge") if path.name != "factory.fedge"]
    staged.write_bytes(staged.read_bytes()[:-100])
    for journal in (None, b"\x00" * 64):
        if journal is not None:
            (state / "install.json").write_bytes(journal)
            staged.write_bytes(b"worn out")
        (state / "status.json").unlink()
        with running_agent(site.agent) as child:
            wait_until(lambda: is_watching(site), "the device to watch again")
            assert release_of(site) == "pump/1"
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert staged.read_bytes() == make_bundle(1)
