"""Where the fleet listens: on what its settings name and on nothing else; beyond loopback over TLS alone. Looked up in the kernel."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from command_line import run_command
from fleet_door_world import Caller, Site, serving
from fleet_world import fleet_process
from listeners import Listener, addresses_of_this_machine, answers_plain_http, listeners, speaks_tls
from odd_requests import head

from fleet.settings import load_fleet_settings
from runtime.errors import SettingsError
from service.addresses import Endpoint, split_endpoint
from service.errors import StartError
from service.listening import bind

pytestmark = pytest.mark.slow

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tried here
BEYOND = (
    EVERYWHERE,
    "[::]",
    "[::ffff:127.0.0.1]",
    "192.0.2.77",
    "fleet.example",
    "127.1",
    "0",
    "localhost.example",
)


def plain(folder: Path, listen: str) -> Path:
    """A fleet.toml without TLS."""
    path = folder / "fleet.toml"
    path.write_text(f'listen = "{listen}"\ndata_dir = "data"\ntenant = "demo"\n')
    return path


@pytest.mark.parametrize("host", [*BEYOND, *addresses_of_this_machine()])
def test_without_tls_it_does_not_start_beyond_loopback_whoever_says_so(tmp_path: Path, host: str) -> None:
    path = plain(tmp_path, f"{host}:0")
    with pytest.raises(SettingsError, match="tls_cert and tls_key are needed"):
        load_fleet_settings(path)
    path = plain(tmp_path, "127.0.0.1:0")
    with pytest.raises(SettingsError, match="tls_cert and tls_key are needed"):
        load_fleet_settings(path, {"FEDGE_FLEET_SERVICE_LISTEN": f"{host}:0"})


def test_the_program_says_so_in_a_line_and_ends(tmp_path: Path) -> None:
    refused = run_command("fleet", "serve", "--config", str(plain(tmp_path, f"{EVERYWHERE}:0")))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "reachable from other machines" in refused.stderr


def test_a_name_of_loopback_that_leads_elsewhere_is_found_out_by_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = socket.getaddrinfo

    def lied_to(host: str, *more: object, **named: object) -> object:
        return found(EVERYWHERE if host == "localhost" else host, *more, **named)  # type: ignore[arg-type] # as it was called

    bind(Endpoint("localhost", 0), is_plain=True).close()
    real_bind = socket.socket.bind
    monkeypatch.setattr(
        socket.socket, "bind", lambda self, address: real_bind(self, (EVERYWHERE, address[1]))
    )
    monkeypatch.setattr(socket, "getaddrinfo", lied_to)
    with pytest.raises(StartError, match=r"localhost is 0\.0\.0\.0, which other machines can reach"):
        bind(Endpoint("localhost", 0), is_plain=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_plain_on_loopback_it_listens_there_and_nowhere_else(tmp_path: Path, host: str) -> None:
    with fleet_process(plain(tmp_path, f"{host}:0"), tmp_path / "log") as (child, _):
        (only,) = listeners(child.pid)
        assert only.protocol == "tcp"
        assert only.is_loopback


@pytest.mark.parametrize("host", [EVERYWHERE, "[::]"])
def test_beyond_loopback_it_has_one_port_with_tls_and_asks_who_is_there(tmp_path: Path, host: str) -> None:
    site = Site(tmp_path)
    site.config.write_text(site.config.read_text().replace("127.0.0.1:0", f"{host}:0"))
    with fleet_process(site.config, site.log) as (child, url):
        port = split_endpoint(url.removeprefix("https://")).port
        assert listeners(child.pid) == {Listener("tcp", host.strip("[]"), port)}
        reached_at = "::1" if host == "[::]" else (addresses_of_this_machine() or ["127.0.0.1"])[0]
        assert speaks_tls(reached_at, port)
        assert not answers_plain_http(reached_at, port)


def test_who_says_nothing_of_itself_learns_nothing_but_that_it_is_well(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        for path in (
            "/v1/devices",
            "/metrics",
            "/v1/openapi.json",
            "/v1/trust/timestamp.json",
            "/v1/device/desired",
            "/v1/nowhere",
            # pages: to sign-in, whether they are there or not
            "/",
            "/docs",
            "/nowhere",
            "/devices/press-1",
        ):
            stranger = Caller(site)
            stranger.send(head(path, method="GET"))
            assert stranger.status() == (401 if path.startswith(("/v1", "/metrics")) else 303), path
            stranger.close()
