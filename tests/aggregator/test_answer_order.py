"""The order on a device: everything is checked, then charged, and only then are data touched; from there on nothing fails visibly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from answerers import Answers
from secure_world import ARRAYS, FIT_LAYOUT, QUESTION, World, layout_of, update

from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import CohortSum, QuorumMissedError
from aggregator.rounds.stage_link import StageRequest
from edge_agent.errors import QuestionRefusedError, TrainingDivergedError
from models.errors import ExecutionError, InputError
from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.refusals import RefusalCode
from protocol.secure_sum import messages
from protocol.sum_terms import SumStage

ODD = DeviceId("press-003")
ASKED = CohortQuestion(
    question=QUESTION, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
)


def collect(w: World) -> CohortSum:
    return w.collector().collect(ASKED, Cohort(devices=tuple(w.devices), quorum=3), deadline_s=5.0)


def participations(w: World, name: DeviceId = ODD) -> int:
    return w.devices[name].budget.spending().participations


class Refusing(Answers):
    """Refuses what it is asked, and must not be asked for more."""

    def check(self, question: object, arrays: object) -> None:
        raise QuestionRefusedError(RefusalCode.ARRAYS, "too far from the approved release")


def failing(error: BaseException) -> Callable[..., np.ndarray]:
    def answer(*_: object) -> np.ndarray:
        raise error

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        failing(TrainingDivergedError("at 0.1")),
        failing(InputError("window 3 of 8 is not finite")),
        failing(ExecutionError("LiteRT: allocation failed")),
        failing(MemoryError()),
        failing(RecursionError()),
        failing(OverflowError("int too large")),
        failing(RuntimeWarning("overflow encountered in multiply")),
        failing(QuestionRefusedError(RefusalCode.SNAPSHOT, "too late to refuse")),
        failing(StopIteration()),
        lambda *_: np.full(FIT_LAYOUT.total, np.nan, np.float32),
        lambda *_: np.full(FIT_LAYOUT.total, np.inf, np.float32),
        lambda *_: np.zeros(3, np.float32),
        lambda *_: None,
    ],
)
def test_whatever_goes_wrong_with_an_answer_adds_zeros_under_the_same_masks(
    tmp_path: Path, answer: Callable[..., np.ndarray]
) -> None:
    w = World(tmp_path, 5)
    w.devices[ODD].side = w.participant(ODD, Answers(answer, layout_of))
    result = collect(w)
    assert result.participants == tuple(sorted(w.devices))
    assert not result.refused
    expected = np.sum([update(i) for i in (0, 1, 2, 4)], axis=0)
    np.testing.assert_allclose(result.total, expected, atol=1e-3)
    assert participations(w) == 1, "it cost as much as any other answer"
    assert len({len(message) for kind, _, message in w.seen if kind == FIT}) == 1


def test_a_learner_that_is_told_to_end_ends(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.devices[ODD].side = w.participant(ODD, Answers(failing(KeyboardInterrupt()), layout_of))
    with pytest.raises(KeyboardInterrupt):
        collect(w)


def test_the_answer_is_charged_before_it_is_computed(tmp_path: Path) -> None:
    w, charged = World(tmp_path, 5), []

    def answer(*_: object) -> np.ndarray:
        charged.append(participations(w))
        return update(3)

    w.devices[ODD].side = w.participant(ODD, Answers(answer, layout_of))
    collect(w)
    assert charged == [1]


def test_a_question_that_is_refused_costs_nothing_and_touches_no_data(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.devices[ODD].side = w.participant(
        ODD, Refusing(failing(AssertionError("data were touched")), layout_of)
    )
    result = collect(w)
    assert [(refused.device, refused.reason) for refused in result.refused] == [(ODD, "refused: ARRAYS")]
    assert participations(w) == 0


def _without_a_seal(request: StageRequest) -> StageRequest:
    delivery = messages.decode(request.messages[ODD], messages.ShareDelivery)
    spoilt = msgspec.structs.replace(delivery, seals=delivery.seals[1:])
    return replace(request, messages={**request.messages, ODD: messages.encode(spoilt)})


def _with_too_few(request: StageRequest) -> StageRequest:
    delivery = messages.decode(request.messages[ODD], messages.ShareDelivery)
    spoilt = msgspec.structs.replace(delivery, sharers=b"\x09", seals=delivery.seals[:1])
    return replace(request, messages={**request.messages, ODD: messages.encode(spoilt)})


@pytest.mark.parametrize("spoil", [_without_a_seal, _with_too_few])
def test_a_bad_delivery_is_refused_before_the_charge_and_before_data(
    tmp_path: Path, spoil: Callable[[StageRequest], StageRequest]
) -> None:
    """Row 1 of the review: windows were read by overflow from whether this refusal or another one came, for nothing."""
    w = World(tmp_path, 5)
    w.bend = lambda request: spoil(request) if request.kind == FIT else request
    result = collect(w)
    assert [refused.reason for refused in result.refused] == ["refused: COHORT"]
    assert participations(w) == 0
    assert w.devices[ODD].asked == []


def test_after_any_refusal_the_attempt_is_over(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.bend = lambda request: _without_a_seal(request) if request.kind == FIT else request
    collect(w)
    side = w.devices[ODD].side
    assert side is not None
    assert side._attempt is None


def test_a_sum_whose_reveal_is_not_on_the_disk_is_not_opened_by_this_device(tmp_path: Path) -> None:
    w = World(tmp_path, 5)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    for device in w.devices.values():
        device.budget.reveal = full  # type: ignore[method-assign]  # the disk at its worst moment
    with pytest.raises(QuorumMissedError, match="refused: FAILED"):
        collect(w)
    assert all(kind != SumStage.UNMASK for kind, _, _ in w.seen)
