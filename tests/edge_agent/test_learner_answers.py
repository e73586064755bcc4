"""What the learner answers, and what it makes of garbage: no network."""

from __future__ import annotations

import pickle
import random
from io import BytesIO

import numpy as np
import pytest
from answerers import NO_GRID, Answers, anchor

from edge_agent.errors import NotReadyError, QuestionRefusedError
from edge_agent.learner.client_app import client_app
from edge_agent.learner.flower_internals import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
)
from edge_agent.learner.local_learner import LocalLearner
from edge_agent.learner.prior_answers import answer_prior
from models.architecture import Architecture
from models.errors import ModelError
from protocol.errors import QuestionError
from protocol.flat_vectors import decode_vector
from protocol.questions import (
    ASSESS,
    COVARIANCE,
    FIT,
    AssessQuestion,
    CovarianceQuestion,
    FitQuestion,
    assess_layout,
    encode_question,
    fit_layout,
)
from protocol.refusals import RefusalCode
from protocol.sum_terms import SumTerms
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(3, 2, 3))
P = ARCHITECTURE.parameter_count


class MeanModel:
    """Trains every parameter towards the mean of what it sees: a model whose answer can be worked out by hand."""

    architecture = ARCHITECTURE

    def __init__(self) -> None:
        self.parameters = np.zeros(P, np.float32)
        self.seen: list[np.ndarray] = []

    def restore(self, flat: np.ndarray, correction: np.ndarray | None = None) -> None:
        self.parameters = np.array(flat, np.float32)

    def save(self) -> np.ndarray:
        return self.parameters.copy()

    def train(self, x: np.ndarray, settings: TrainingSettings, *, labels: object = None) -> float:
        self.seen.append(x)
        self.parameters += np.float32(settings.learning_rate)
        return 1.0

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, np.full(len(x), float(abs(self.parameters[0]) + 1), np.float32)

    def ranges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(ARCHITECTURE.tensor_count, x.min()), np.full(ARCHITECTURE.tensor_count, x.max())


def rows(n: int) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3) / (3 * n)


PROFILE = TrainingSettings(epochs=1, batch_size=100, learning_rate=0.5).settled()
ZEROS = np.zeros(P, np.float32)


def fit(layout_sha256: str = ARCHITECTURE.layout_sha256, profile: TrainingSettings = PROFILE) -> FitQuestion:
    return FitQuestion(run_id="r", round_number=1, layout_sha256=layout_sha256, profile_sha256=profile.sha256)


def learner_of(
    data: np.ndarray, model: MeanModel | None = None, *, profile: TrainingSettings = PROFILE, **others: object
) -> LocalLearner:
    fields = {"champion": ZEROS, "maximum_examples": 100, **others}
    made = model or MeanModel()
    trusted = anchor(made.architecture.layout_sha256, ZEROS, profile)
    return LocalLearner(made, data, anchor=trusted, **fields)  # type: ignore[arg-type]  # by name, each of its own type


def test_fit_answers_the_clipped_update_with_one_vote_and_sees_another_half_each_time_but_no_held_out_row() -> (
    None
):
    model, data = MeanModel(), rows(40)
    learner = learner_of(data, model, random_bytes=random.Random(1).randbytes)
    seen = []
    for _ in range(12):
        parts = fit_layout(P).unpack(learner.answer(fit(), {"parameters": np.ones(P, np.float32)}))
        learner.settle()
        assert parts["votes"] == [1]
        np.testing.assert_allclose(parts["update"], np.full(P, PROFILE.update_norm / P**0.5), rtol=1e-6)
        seen.append({tuple(row) for batch in model.seen for row in batch})
        model.seen.clear()
    assert {len(half) for half in seen} == {16}
    assert len(set(map(frozenset, seen))) > 1
    assert set.union(*seen) == {tuple(row) for i, row in enumerate(data) if i % 5 != 4}


def test_assess_sees_the_held_out_rows_alone_but_for_the_threshold_and_compares_with_the_installed_release() -> (
    None
):
    learner = learner_of(rows(10), champion=np.ones(P, np.float32))
    question = AssessQuestion(
        run_id="r", layout_sha256=ARCHITECTURE.layout_sha256, profile_sha256=PROFILE.sha256
    )
    parts = assess_layout(ARCHITECTURE.tensor_count, 3).unpack(learner.answer(question, {"candidate": ZEROS}))
    assert (parts["examples"], parts["candidate_loss"], parts["champion_loss"]) == ([2], [2], [4])
    np.testing.assert_allclose(parts["feature_sum"], rows(10)[4::5].sum(axis=0), rtol=1e-6)
    assert (parts["candidate_scores"].sum(), parts["threshold_votes"].sum()) == (2, 1)


@pytest.mark.parametrize(("own", "profiles"), [(50, 10_000), (4096, 50)])
def test_the_newest_windows_count_as_far_as_the_owner_and_the_profile_go(own: int, profiles: int) -> None:
    model = MeanModel()
    profile = TrainingSettings(
        epochs=1, batch_size=100, learning_rate=0.5, maximum_examples=profiles
    ).settled()
    learner_of(rows(100), model, profile=profile, maximum_examples=own).answer(
        fit(profile=profile), {"parameters": ZEROS}
    )
    assert sum(len(batch) for batch in model.seen) == 20
    assert min(row[0] for batch in model.seen for row in batch) >= 0.5


def test_windows_that_are_not_finite_are_left_out_of_every_answer_and_decide_nothing_else() -> None:
    data = rows(40)
    data[3], data[7, 1], data[9] = np.nan, np.inf, np.nan
    model = MeanModel()
    learner = learner_of(data, model)
    parts = fit_layout(P).unpack(learner.answer(fit(), {"parameters": np.ones(P, np.float32)}))
    assert parts["votes"] == [1]
    assert np.isfinite(np.concatenate(model.seen)).all()
    question = AssessQuestion(
        run_id="r", layout_sha256=ARCHITECTURE.layout_sha256, profile_sha256=PROFILE.sha256
    )
    parts = assess_layout(ARCHITECTURE.tensor_count, 3).unpack(learner.answer(question, {"candidate": ZEROS}))
    assert parts["examples"] == [7]


def test_a_device_whose_windows_are_all_broken_is_as_ready_as_any_and_has_no_answer() -> None:
    learner = learner_of(np.full((40, 3), np.nan, np.float32))
    with pytest.raises(ModelError):
        learner.answer(fit(), {"parameters": ZEROS})


def test_windows_that_never_change_are_answered_with() -> None:
    learner = learner_of(np.full((40, 3), 0.5, np.float32))
    vector = learner.answer(fit(), {"parameters": np.ones(P, np.float32)})
    assert np.isfinite(vector).all()


@pytest.mark.parametrize(
    "change",
    [{"norm_limit": 1e-9}, {"norm_limit": 1e9}, {"maximum_examples": 1}, {"maximum_examples": 20_000}],
)
def test_terms_that_would_clip_an_answer_to_what_is_looked_for_are_refused(change: dict[str, float]) -> None:
    learner = learner_of(rows(40))
    honest = {"norm_limit": PROFILE.update_norm, "maximum_examples": PROFILE.maximum_examples}
    about = {"run_id": "r", "question": FIT, "round_number": 1, "devices": 3}
    learner.check_terms(SumTerms(**about, **honest))  # type: ignore[arg-type]  # by name, each of its own type
    with pytest.raises(QuestionRefusedError) as refused:
        learner.check_terms(SumTerms(**about, **{**honest, **change}))  # type: ignore[arg-type]  # as above
    assert refused.value.code is RefusalCode.TERMS


def test_too_few_or_foreign_rows_are_not_ready() -> None:
    with pytest.raises(NotReadyError, match=r"\(4, 3\)"):
        learner_of(rows(4))
    with pytest.raises(NotReadyError, match=r"\(10, 2\)"):
        learner_of(np.zeros((10, 2), np.float32))


def ask(content: RecordDict, kind: str = FIT) -> Message:
    from flwr.app import Metadata
    from flwr.app.message import make_message

    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=4e9, ttl=60.0, message_type=kind,
    )  # fmt: skip
    app = client_app(Answers(lambda _question, arrays: arrays["parameters"]), grid=NO_GRID)
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    return app(make_message(metadata=metadata, content=content), context)


def record(payload: bytes) -> RecordDict:
    array = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=payload)
    return RecordDict(
        {
            "question": ConfigRecord({"json": encode_question(fit())}),
            "arrays": ArrayRecord({"parameters": array}),
        }
    )


def npy(array: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_question_and_answer_travel_as_records() -> None:
    reply = ask(record(npy(np.array([1.5, 2.5], np.float32))))
    assert decode_vector(reply.content.array_records["answer"]["vector"].data).tolist() == [1.5, 2.5]
    assert not reply.content.metric_records, "how long it took is nobody's business"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code from the server ran",))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        pickle.dumps(Bomb()),
        b"PK\x03\x04" + bytes(30),
        npy(np.zeros(2)),
        npy(np.zeros((2, 2), np.float32)),
        npy(np.zeros(2, np.float32))[:-1],
        npy(np.zeros(2, np.float32)) + b"x",
        npy(np.zeros(2, np.float32)).replace(b"(2,)", b"(9,)"),
        npy(np.zeros(2, ">f4")),
    ],
)
def test_garbage_for_a_vector_is_refused_and_never_run(payload: bytes) -> None:
    with pytest.raises(QuestionError):
        decode_vector(payload)
    assert ask(record(payload)).error.reason == "refused: ARRAYS"


def test_object_array_is_refused_without_unpickling() -> None:
    stream = BytesIO()
    np.save(stream, np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(QuestionError, match=r"object|float32"):
        decode_vector(stream.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"question": ConfigRecord({"json": "{"})}),
        RecordDict({"question": ConfigRecord({"json": 7})}),
        RecordDict({"question": ConfigRecord({"json": '{"type":"erase","run_id":"r"}'})}),
    ],
)
def test_message_without_a_known_question_gets_an_error_reply(content: RecordDict) -> None:
    for kind in (FIT, ASSESS):
        reply = ask(content, kind)
        assert reply.error.reason == "refused: NOT_ASKED"


def test_a_fleet_is_told_of_rows_as_the_detector_sees_them() -> None:
    rng = np.random.default_rng(0)
    kept = np.cumsum(rng.normal(size=(400, 3)), axis=0).astype(np.float32)
    seen, unit = np.diff(kept, axis=0, prepend=0).astype(np.float32), np.full(3, 2.0)
    asked = CovarianceQuestion(
        run_id="r", layout_sha256=ARCHITECTURE.layout_sha256, profile_sha256=PROFILE.sha256
    )
    prior = {"scale_log_variance": np.zeros(3, np.float32), "scale_freedom": np.zeros(3, np.float32)}
    learner = learner_of(kept, maximum_examples=300, unit=unit, seen=seen)
    told = learner.layout_of(COVARIANCE).unpack(learner.answer(asked, prior))
    expected, of_kept = (answer_prior(asked, prior, rows[-300:], unit) for rows in (seen, kept))
    np.testing.assert_allclose(told["correlation"], expected["correlation"], rtol=1e-3)
    assert not np.allclose(told["correlation"], of_kept["correlation"], rtol=0.1)


def test_how_the_values_of_wide_windows_vary_together_is_refused_before_it_is_added_up() -> None:
    class Wide(MeanModel):
        architecture = Architecture(kind="dense-autoencoder", layers=(129, 2, 129))

    learner = learner_of(np.zeros((60, 129), np.float32), Wide(), unit=np.ones(129))
    with pytest.raises(QuestionError, match="how 129 features vary together is not asked"):
        learner.layout_of(COVARIANCE)
    asked = CovarianceQuestion(
        run_id="r", layout_sha256=Wide.architecture.layout_sha256, profile_sha256=PROFILE.sha256
    )
    with pytest.raises(QuestionError, match="how 129 features vary together is not asked"):
        learner.answer(asked, {})
