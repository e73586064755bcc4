"""agent.toml: what is read, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.settings import Settings, load_agent_settings
from edge_agent.sources.settings import SimulatedSettings
from runtime.errors import SettingsError

pytestmark = pytest.mark.edge

TOP = 'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n'
HEAD = TOP + '[trust]\nroot = "root.json"\n'
SOURCE = '[source]\nkind = "simulated"\nspeed = 60.0\n'


def _load(directory: Path, text: str) -> Settings:
    (directory / "agent.toml").write_text(text)
    return load_agent_settings(directory / "agent.toml")


def test_paths_are_relative_to_the_file_and_limits_have_defaults(tmp_path: Path) -> None:
    settings = _load(tmp_path, HEAD + SOURCE + '[flower]\nca_file = "pki/ca.pem"\n')
    assert settings.state_dir == tmp_path / "state"
    assert settings.trust.root == tmp_path / "root.json"
    assert settings.flower is not None
    assert settings.flower.ca_file == tmp_path / "pki" / "ca.pem"
    assert settings.paths.outbox == tmp_path / "state" / "outbox.sqlite"
    assert isinstance(settings.source, SimulatedSettings)
    assert settings.source.speed == 60.0
    assert settings.outbox.maximum_bytes == 16 * 1024 * 1024
    assert settings.config_file == tmp_path / "agent.toml"


def test_every_key_of_the_documented_example_is_known(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        TOP
        + 'labels = { site = "hall-1" }\n[trust]\nroot = "root.json"\n'
        + '[fleet]\nurl = "https://127.0.0.1:8443"\nca_file = "ca.pem"\nclaim_token_file = "claim.token"\n'
        + '[mqtt]\nurl = "mqtts://broker.example:8884"\nca_file = "ca.pem"\n'
        + '[flower]\nca_file = "ca.pem"\n'
        + '[source]\nkind = "simulated"\nspeed = 60.0\nseed = 7\nsnapshot_every_s = 10.0\nprofile = "motor-a"\ncontrol_file = "machine.json"\n'
        + "[detection]\ncommissioning_windows = 120\nopens_after_windows = 2\n"
        + "[outbox]\nmaximum_bytes = 16777216\nmaximum_age_s = 604800\n"
        + "[buffer]\nmaximum_bytes = 8388608\n"
        + "[learner]\nenabled = true\nminimum_windows = 64\nmaximum_temperature_c = 80\nrequire_power = false\n"
        + "[health]\nevery_s = 30\n[debug]\nscore_log = false\n",
    )
    assert settings.mqtt is not None
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.tls) == ("broker.example", 8884, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + SOURCE + "[outbox]\nmaximum_byte = 1\n",
            "unknown key 'outbox.maximum_byte'; did you mean 'outbox.maximum_bytes'?",
        ),
        (HEAD + SOURCE + "[learnr]\n", "unknown key 'learnr'; did you mean 'learner'?"),
        (HEAD + SOURCE + "[xyzzy]\n", "unknown key 'xyzzy'; valid here: buffer,"),
        (
            HEAD + '[source]\nkind = "simulated"\nsped = 5\n',
            "unknown key 'source.sped'; did you mean 'source.speed'?",
        ),
        (HEAD + '[source]\nkind = "simulatd"\n', "source.kind = 'simulatd' is not valid"),
        (
            HEAD + '[source]\nkind = "simulated"\nspeed = -1\n',
            "source.speed = -1 is not valid: expected a number at least 1e-06 and at most 1000000",
        ),
        (HEAD, "source is missing; it has no default"),
        (
            HEAD + SOURCE + '[outbox]\nmaximum_bytes = "many"\n',
            "outbox.maximum_bytes = 'many' is not valid: expected a whole number at least 65536 (bytes)",
        ),
        (
            HEAD + SOURCE + "[outbox]\nmaximum_bytes = 5\n",
            "outbox.maximum_bytes = 5 is not valid: expected a whole number at least 65536 (bytes)",
        ),
        (HEAD + SOURCE + "[detection]\nopens_after_windows = 0\n", "detection.opens_after_windows = 0"),
        (HEAD.replace('"demo"', '"my tenant"') + SOURCE, "tenant 'my tenant' is not a valid name"),
        (TOP + SOURCE, "trust is missing; it has no default"),
        (HEAD.replace('"root.json"', "[]") + SOURCE, "trust.root = [] is not valid"),
        (
            TOP + 'release_keys = ["release.pub.pem"]\n' + SOURCE,
            "agent.toml:5: unknown key 'release_keys'; releases are believed by the fleet's signed repository now",
        ),
        (
            'release_keys = ["k"]\n' + HEAD + SOURCE,
            'write [trust] root = "root.json" instead; what is installed here goes on running, and nothing that was kept is lost',
        ),
        (HEAD + SOURCE + '[fleet]\nurl = "http://x"\nca_file = "ca.pem"\n', "use https://host:port"),
        (HEAD + SOURCE + '[fleet]\nurl = "https://x"\n', "fleet.ca_file is missing; it has no default"),
        (
            HEAD + SOURCE + '[mqtt]\nurl = "mqtt://broker.example:1883"\n',
            "in clear to another machine; use mqtts://",
        ),
        (HEAD + SOURCE + '[mqtt]\nurl = "mqtt://10.0.0.1"\n', "in clear to another machine"),
        (HEAD + SOURCE + '[mqtt]\nurl = "mqtts://broker.example"\n', "[mqtt] ca_file is missing"),
        (HEAD + SOURCE + '[mqtt]\nurl = "tcp://127.0.0.1"\n', "[mqtt] url is not valid"),
        (HEAD + SOURCE + '[mqtt]\nurl = "mqtt://127.0.0.1:99999"\n', "[mqtt] url is not valid"),
        ("state_dir = ", "not valid TOML"),
        (
            HEAD + '[source]\nkind = "replay"\npath = "x.csv"\nrow_every_s = inf\n',
            "agent.toml:10: source.row_every_s = inf is not valid: give a finite number",
        ),
        (
            HEAD + '[source]\nkind = "replay"\npath = "x.csv"\nrow_every_s = 1e300\n',
            "at most 1000000000 (seconds)",
        ),
        (HEAD + SOURCE + "[health]\nevery_s = nan\n", "health.every_s = nan is not valid"),
        (HEAD + SOURCE + '[inference]\nlibrary = "x.so"\n', "it belongs to 'edgetpu' or 'gpu'"),
    ],
)
def test_each_mistake_is_one_line_that_names_key_value_and_what_is_valid(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    message = str(caught.value)
    assert expected in message
    assert str(tmp_path / "agent.toml") in message
    assert "\n" not in message


def test_a_password_in_the_broker_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="without user, password") as caught:
        _load(tmp_path, HEAD + SOURCE + '[mqtt]\nurl = "mqtt://me:hunter2@127.0.0.1"\n')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_an_unencrypted_broker_is_accepted_on_loopback(tmp_path: Path, host: str) -> None:
    assert _load(tmp_path, HEAD + SOURCE + f'[mqtt]\nurl = "mqtt://{host}:1883"\n').mqtt is not None


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*agent.toml: No such file"):
        load_agent_settings(tmp_path / "agent.toml")


@pytest.mark.parametrize(
    ("learner", "privacy", "fewest"), [(None, None, 32), (5, None, 32), (64, None, 64), (64, 100, 100)]
)
def test_an_agent_toml_of_before_the_privacy_table_is_still_read(
    tmp_path: Path, learner: int | None, privacy: int | None, fewest: int
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n[trust]\nroot = "r"\n'
        '[source]\nkind = "simulated"\n'
        + (f"[learner]\nminimum_windows = {learner}\n" if learner else "")
        + (f"[privacy]\nminimum_windows = {privacy}\n" if privacy else "")
    )
    assert load_agent_settings(file, {}).fewest_windows == fewest
