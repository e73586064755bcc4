"""The collector and its admission rules over a fake link: no Flower, no clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pytest

from aggregator.errors import AnswerRefusedError
from aggregator.rounds.admission import Admission, admit_update, check_answer
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import CohortSum, QuorumMissedError, RoundCanceledError
from protocol.names import DeviceId
from protocol.questions import FitQuestion, Question, fit_layout

LAYOUT = fit_layout(4)
QUESTION = FitQuestion(run_id="r", round_number=1, layout_sha256="0" * 64, profile_sha256="1" * 64)


def update(move: float = 0.1, votes: float = 1.0) -> np.ndarray:
    return LAYOUT.pack({"update": np.full(4, move), "votes": np.array([votes])})


WITHIN_ONE = admit_update(norm_limit=1.0)


class FakeLink:
    """Answers by a script: device → (second it answers at, what)."""

    def __init__(self, script: Mapping[str, tuple[float, np.ndarray | str | None]]) -> None:
        self.script, self.now, self.withdrawn = script, 0.0, set[Ticket]()

    def clock(self) -> float:
        return self.now

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, np.ndarray],
        *,
        lifetime_s: float,
        answer_size: int,
    ) -> dict[Ticket, DeviceId]:
        return {Ticket(f"t-{device}"): device for device in devices if device in self.script}

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[np.ndarray]]:
        self.now += wait_s
        due = []
        for ticket in tickets:
            device = DeviceId(ticket.removeprefix("t-"))
            at, what = self.script[device]
            if at <= self.now:
                due.append(self._reply(ticket, device, what))
        return due

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        self.withdrawn |= set(tickets)

    @staticmethod
    def _reply(ticket: Ticket, device: DeviceId, what: np.ndarray | str | None) -> DeviceReply[np.ndarray]:
        if what is None:
            return DeviceReply(ticket=ticket, device=device, failure="went offline", lost=True)
        if isinstance(what, str):
            return DeviceReply(ticket=ticket, device=device, failure=what)
        return DeviceReply(ticket=ticket, device=device, content=what)


def collect(
    link: FakeLink,
    cohort: str,
    *,
    quorum: int = 1,
    enough: int | None = None,
    admission: Admission = WITHIN_ONE,
    deadline_s: float = 10.0,
    canceled: Callable[[], bool] = lambda: False,
) -> CohortSum:
    asked = CohortQuestion(question=QUESTION, arrays={}, layout=LAYOUT, admission=admission)
    devices = Cohort(devices=tuple(DeviceId(name) for name in cohort), quorum=quorum, enough=enough)
    collector = PlainCollector(link, clock=link.clock)
    return collector.collect(asked, devices, deadline_s=deadline_s, canceled=canceled)


def test_sum_equals_the_naive_float64_sum_of_what_was_admitted() -> None:
    rng = np.random.default_rng(0)
    answers = {name: update(0.1 * rng.random()) for name in "abcdefgh"}
    result = collect(FakeLink({n: (0.1, v) for n, v in answers.items()}), "abcdefgh")
    naive = np.zeros(LAYOUT.total)
    for vector in answers.values():
        naive = naive + np.asarray(vector, np.float64)
    np.testing.assert_array_equal(result.total, naive)


def test_each_device_ends_in_exactly_one_list() -> None:
    link = FakeLink(
        {
            "a": (0.1, update()),
            "b": (0.1, np.full(LAYOUT.total, np.nan, np.float32)),
            "c": (0.1, "no rows"),
            "d": (0.1, None),
            "e": (99.0, update()),
        }
    )
    result = collect(link, "abcdef")
    assert result.participants == ("a",)
    assert {r.device: r.reason for r in result.refused}["c"] == "no rows"
    assert sorted(r.device for r in result.refused) == ["b", "c"]
    assert result.lost == ("d", "e", "f")  # f could not even be asked
    assert result.seconds == pytest.approx(10.0)
    assert link.withdrawn == {"t-e"}


def test_round_closes_with_enough_answers_and_later_ones_change_nothing() -> None:
    link = FakeLink({"a": (0.1, update()), "b": (0.1, update()), "c": (0.1, update()), "d": (99.0, update())})
    result = collect(link, "abcd", enough=2)
    assert len(result.participants) == 2
    np.testing.assert_array_equal(result.total, 2 * update().astype(np.float64))
    assert len(result.spared) == 2
    assert result.lost == ()
    assert result.seconds < 1


def test_missed_quorum_carries_the_report() -> None:
    with pytest.raises(QuorumMissedError, match=r"1 of 2 devices .* quorum is 2") as missed:
        collect(FakeLink({"a": (0.1, update()), "b": (99.0, update())}), "ab", quorum=2)
    assert missed.value.report.lost == ("b",)


def test_canceled_round_withdraws_its_questions() -> None:
    link = FakeLink({"a": (99.0, update())})
    with pytest.raises(RoundCanceledError):
        collect(link, "a", canceled=lambda: link.now > 1)
    assert link.withdrawn == {"t-a"}


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"quorum": 0}, "quorum"), ({"quorum": 3, "enough": 2}, "enough"), ({"deadline_s": 0.0}, "deadline_s")],
)
def test_impossible_figures_are_refused(limits: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        collect(FakeLink({"a": (0.1, update())}), "a", **limits)


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.zeros(3, np.float32), r"shape \(3,\)"),
        (np.zeros(LAYOUT.total), "float64"),
        (np.full(LAYOUT.total, np.inf, np.float32), "5 NaN or infinite"),
        (update(move=1.0), r"norm 2; 1 votes of 1 reach 1"),
        (update(votes=0.0), "norm 0.2; 0 votes of 1 reach 0"),
        (update(move=0.0, votes=1e6), r"1e\+06 votes of 1 devices"),
    ],
)
def test_bad_update_is_refused_with_its_value_and_what_is_valid(vector: np.ndarray, words: str) -> None:
    with pytest.raises(AnswerRefusedError, match=words):
        check_answer(LAYOUT, vector, admit_update(norm_limit=1.0))
