"""The score log, and asking for desired state over HTTPS."""

from __future__ import annotations

from pathlib import Path

import pytest
from waiting import wait_until

from edge_agent import fleet_poll
from edge_agent.enrolled import load_enrolled
from edge_agent.errors import FleetAnswerError, FleetUnreachableError, NotEnrolledError, NotReadyError
from edge_agent.fleet_client import FleetWord
from edge_agent.fleet_poll import CommandRoad, FleetPoll
from edge_agent.identity_key import load_device_key
from edge_agent.learner.enrolled_files import read_active_bundle
from edge_agent.score_log import HEADER, ScoreLog
from edge_agent.settings import StatePaths
from protocol.messages.payloads import DesiredState

pytestmark = pytest.mark.edge


def test_the_score_log_appends_over_restarts_with_one_header(tmp_path: Path) -> None:
    for score, episode in ((1.5, ""), (3.0, "ep")):
        log = ScoreLog(tmp_path / "scores.csv")
        log.add(wall_s=1.0, machine_s=2.0, score=score, threshold=2.0, release="pump/1", episode=episode)
        log.flush()
        log.flush()
    assert (tmp_path / "scores.csv").read_text() == (
        HEADER + "1.000,2.000,1.5,2,0,pump/1,\n1.000,2.000,3,2,1,pump/1,ep\n"
    )


def test_a_score_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ScoreLog(tmp_path / "missing" / "scores.csv")
    for _ in range(3):
        log.add(wall_s=1.0, machine_s=2.0, score=1.0, threshold=2.0, release="pump/1")
        log.flush()
    assert caplog.text.count("score_log_off") == 1


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"device": "d"}', b"\xff"])
def test_a_device_without_identity_is_told_to_enrol(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "enrolment.json").write_bytes(content)
        (tmp_path / "device.key").write_bytes(content)
    with pytest.raises(NotEnrolledError, match="fedge-agent enrol"):
        load_enrolled(tmp_path / "enrolment.json")
    with pytest.raises(NotEnrolledError):
        load_device_key(tmp_path / "device.key")


DESIRED = DesiredState(
    execution="e1", release="pump/2", counter=2, bundle_path="/v1/x", bundle_sha256="0" * 64, bundle_bytes=1
)


def test_desired_state_over_https_is_taken_once_and_asked_for_by_etag(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []
    answers: list[FleetWord[DesiredState] | Exception] = [
        FleetWord(state=DESIRED, etag="v1", is_unchanged=False),
        FleetWord(state=None, etag="v1", is_unchanged=True),
        FleetUnreachableError("the fleet refused the connection"),
        FleetUnreachableError("the fleet refused the connection"),
        RecursionError("an answer that nobody thought of"),
        FleetWord(state=DESIRED, etag="v2", is_unchanged=False),
    ]
    woken: list[bool] = []

    def ask(etag: str) -> FleetWord[DesiredState]:
        asked.append(etag)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    poll = FleetPoll(
        ask, name="desired", every_s=3600.0, is_needed=lambda: True, wake=lambda: woken.append(True)
    )
    poll.ask_once()
    assert poll.take() == DESIRED
    assert poll.take() is None
    for _ in range(3):
        poll.ask_once()
    assert asked == ["", "v1", "v1", "v1"]
    assert len(woken) == 1
    assert caplog.text.count("desired_not_asked") == 1
    for _ in range(2):
        poll.ask_once()
    assert "RecursionError: an answer that nobody thought of" in caplog.text
    assert poll.take() == DESIRED
    poll.forget()
    answers.append(FleetWord(state=DESIRED, etag="v3", is_unchanged=False))
    poll.ask_soon()
    wait_until(lambda: len(asked) == 7, "the question that was asked for")
    assert asked[-1] == "", "what was not believed is asked for whole"
    poll.close()


def test_a_learner_that_meets_a_damaged_journal_leaves_it_to_the_agent(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.install_journal.write_bytes(b"half of a jour")
    with pytest.raises(NotReadyError, match=r"install\.json is damaged"):
        read_active_bundle(paths)
    assert paths.install_journal.read_bytes() == b"half of a jour"
    assert not list(tmp_path.glob("*.damaged"))


def test_results_go_over_https_where_no_broker_carries_them_and_wait_where_nothing_does() -> None:
    said: list[bytes] = []
    errors: list[Exception] = [
        FleetUnreachableError("nobody answers"),
        FleetAnswerError("its database is away", status=503),
        FleetAnswerError("it does not want this one", status=422),
    ]

    def send(message: bytes) -> None:
        if errors:
            raise errors.pop(0)
        said.append(message)

    is_away = [True]
    road = CommandRoad(
        lambda etag: FleetWord(state=None, etag=etag, is_unchanged=True),
        send=send,
        every_s=3600.0,
        is_needed=lambda: is_away[0],
        wake=lambda: None,
    )
    results = [b"%d" % number for number in range(1, 40)]
    road.close()
    wait_until(lambda: not road._thread.is_alive(), "its thread to end")
    for result in results[:3]:
        road.tell(result)
    for _ in range(2):
        road.ask_once()
        assert said == [], "the road is broken: all wait"
    road.ask_once()
    assert said == [b"2", b"3"], "one that the fleet refuses holds nobody up"
    is_away[0] = False
    road.tell(results[3])
    road.ask_once()
    assert said == [b"2", b"3"], "the broker carries it"
    is_away[0] = True
    for result in results:
        road.tell(result)
    road.ask_once()
    assert len(said) == 2 + 16, "bounded; the others lie in the outbox"


def test_a_broker_that_holds_words_back_delays_them_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_poll, "AT_LEAST_EVERY_S", 0.05)
    asked: list[str] = []

    def ask(etag: str) -> FleetWord[str]:
        asked.append(etag)
        return FleetWord(state=None, etag=etag, is_unchanged=True)

    poll = FleetPoll(ask, name="x", every_s=0.01, is_needed=lambda: False, wake=lambda: None)
    try:
        wait_until(lambda: len(asked) >= 2, "a question that nobody needed, and another one")
    finally:
        poll.close()
