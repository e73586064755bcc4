"""MQTT topics: the newest value of each while it is fresh, from a real broker; what is hostile is missing or told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from hostile_broker import HostileBroker, publish
from mosquitto_broker import MosquittoBroker
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion
from waiting import wait_until

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import TopicSettings
from edge_agent.sources.topics import TopicInstrument

TOPICS = {"Pressure": "line3/pressure", "Flow": "line3/state#flow.now", "Level": "line3/state#level"}


WORD = "s3cret-word"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoBroker]:
    folder = tmp_path_factory.mktemp("topics")
    accounts = folder / "accounts"
    # mosquitto_passwd's form of operator:s3cret-word is made by itself
    accounts.write_text("operator:s3cret-word\n")
    from subprocess import run

    from mosquitto_broker import installed_program

    run([installed_program("mosquitto_passwd"), "-U", str(accounts)], check=True)
    made = MosquittoBroker(folder, settings=[f"password_file {accounts}"])
    config = folder / "broker" / "mosquitto.conf"
    config.write_text(config.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    with made:
        yield made


@pytest.fixture
def publisher(broker: MosquittoBroker) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("operator", "s3cret-word")
    client.tls_set_context(broker.client_tls())
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def settings_of(broker: MosquittoBroker, folder: Path, password: str = WORD, **more: Any) -> TopicSettings:
    file = folder / f"password-{password}"
    file.write_text(password)
    file.chmod(0o600)
    given = {
        "url": broker.url,
        "topics": TOPICS,
        "ca_file": broker.ca_file,
        "username": "operator",
        "password_file": file,
    }
    return TopicSettings(**(given | more))


def read_when(
    instrument: TopicInstrument, holds: Callable[[NDArray[np.float32]], bool], tell: Callable[[], None]
) -> NDArray[np.float32]:
    """The first row for which `holds`; `tell` publishes again and again, for nobody hears what is said before they subscribe."""

    def found() -> NDArray[np.float32] | None:
        tell()
        try:
            row = instrument.read()
        except SourceError:
            return None
        return row if holds(row) else None

    made = wait_until(lambda: None if (row := found()) is None else (row,), "a row")
    assert made is not None
    return made[0]


def whole(row: NDArray[np.float32]) -> bool:
    return not np.isnan(row).any()


def test_a_row_is_the_newest_of_each_topic_while_it_is_fresh(
    broker: MosquittoBroker, publisher: mqtt.Client, tmp_path: Path
) -> None:
    clock = Clock()
    instrument = TopicInstrument(settings_of(broker, tmp_path, stale_after_s=60.0), clock)

    def tell() -> None:
        publisher.publish("line3/pressure", "1.5")
        publisher.publish("line3/state", json.dumps({"flow": {"now": 7}, "level": True}))

    assert read_when(instrument, whole, tell) == pytest.approx([1.5, 7, 1])
    # in order: once the last is heard, all are
    read_when(instrument, lambda row: row[0] == 9, lambda: publisher.publish("line3/pressure", "9") and None)
    clock.now_s += 45
    assert (
        read_when(
            instrument, lambda row: row[0] == 2.5, lambda: publisher.publish("line3/pressure", "2.5") and None
        )[1]
        == 7
    )
    clock.now_s += 45
    assert np.isnan(instrument.read()).tolist() == [False, True, True], "never the last value repeated"
    clock.now_s += 45
    with pytest.raises(SourceError, match=r"nothing on line3/pressure, line3/state for 60 s \(connected\)"):
        instrument.read()
    instrument.close()


@pytest.mark.parametrize(
    "said",
    [
        "abc",
        "",
        '"3.5"',
        "[1, 2]",
        "NaN",
        "1e999",
        b"\xff\xfe",
        "[" * 10_000,
        "9" * 60_000,
        "1" * 200_000,
        "{}",
    ],
    ids=lambda said: repr(said[:8]),
)
def test_what_is_no_number_is_missing(
    broker: MosquittoBroker, publisher: mqtt.Client, tmp_path: Path, said: str | bytes
) -> None:
    instrument = TopicInstrument(
        settings_of(broker, tmp_path, topics={"Pressure": "line3/pressure", "Well": "line3/well"})
    )

    def tell() -> None:
        publisher.publish("line3/pressure", said)
        publisher.publish("line3/well", "1")

    row = read_when(instrument, lambda row: row[1] == 1, tell)
    assert np.isnan(row[0])
    instrument.close()


def test_a_retained_message_is_no_measurement(
    broker: MosquittoBroker, publisher: mqtt.Client, tmp_path: Path
) -> None:
    publisher.publish("old/pressure", "99", retain=True).wait_for_publish()
    topics = {"Pressure": "old/pressure", "Well": "line3/well"}
    instrument = TopicInstrument(settings_of(broker, tmp_path, topics=topics))
    row = read_when(
        instrument, lambda row: row[1] == 1, lambda: publisher.publish("line3/well", "1") and None
    )
    assert np.isnan(row[0])
    instrument.close()
    publisher.publish("old/pressure", "", retain=True).wait_for_publish()


def state_of(instrument: TopicInstrument, part: str) -> bool:
    try:
        instrument.read()
    except SourceError as error:
        return part in str(error)
    return False


def test_why_nothing_comes_is_told(broker: MosquittoBroker, tmp_path: Path) -> None:
    other = tmp_path / "other"
    stranger = MosquittoBroker(other).ca_file
    cases = [
        (settings_of(broker, tmp_path, password="wrong"), "refuses this account"),
        (settings_of(broker, tmp_path, ca_file=stranger), "not the pinned CA's"),
        (settings_of(broker, tmp_path, url="mqtts://127.0.0.1:9"), "nobody listens there"),
    ]
    for settings, told in cases:
        instrument = TopicInstrument(settings)
        wait_until(lambda instrument=instrument, told=told: state_of(instrument, told), told)
        instrument.close()
    (tmp_path / "password-wrong").unlink()
    with pytest.raises(SourceError, match="password_file"):
        TopicInstrument(cases[0][0])


def test_a_broker_that_sends_a_hundred_megabytes_is_hung_up_on() -> None:
    def misbehave(line: Any, first: int, _body: bytes) -> None:
        if first & 0xF0 == 0x80:
            line.sendall(
                b"\x90\x03\x00\x01\x00" + publish("line3/pressure", b"1" * 500_000, claimed=100_000_000)
            )

    hostile = HostileBroker(misbehave)
    topics = {"Pressure": "line3/pressure"}
    instrument = TopicInstrument(TopicSettings(url=hostile.url, topics=topics))
    wait_until(lambda: state_of(instrument, "sends a message of 100"), "the broker to be hung up on")
    instrument.close()
    hostile.close()
