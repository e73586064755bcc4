"""How a device trains as a question asks, what it keeps between two rounds, and what it does with an update nobody took."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError, TrainingDivergedError
from edge_agent.learner.control_variates import ControlVariates, VariateFile, VariateInMemory
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.errors import ParameterError
from models.local_training import fit
from models.private_training import fit_privately
from models.training_model import TrainingModel
from protocol.questions import (
    AssessQuestion,
    FitQuestion,
    fit_layout,
    kind_of,
    scaffold_layout,
)
from protocol.training import ExamplePrivacy, TrainingSettings
from runtime.errors import StorageError

pytestmark = pytest.mark.edge

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
P = ARCHITECTURE.parameter_count
MODEL = TrainingModel(
    (Path(__file__).parents[1] / "models" / "golden" / "autoencoder.training.tflite").read_bytes(),
    ARCHITECTURE,
)
ROWS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
TRAINING = ROWS[np.arange(60) % 5 != 4]
START = initial_parameters(ARCHITECTURE, 1)
RATE = 0.1


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(**{"batch_size": 8, "learning_rate": RATE, "maximum_staleness": 0, **changes})


def question(number: int = 1, run_id: str = "r", **changes: object) -> FitQuestion:
    return FitQuestion(
        run_id=run_id,
        round_number=number,
        layout_sha256=ARCHITECTURE.layout_sha256,
        training=settings(**changes),
    )


def learner(**changes: object) -> LocalLearner:
    return LocalLearner(MODEL, ROWS, maximum_examples=100, **changes)  # type: ignore[arg-type]  # by name, each of its own type


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    count = iter(range(1_000_000))
    return lambda size: hashlib.shake_256(f"{seed} {next(count)}".encode()).digest(size)


def update_of(
    made: LocalLearner, asked: FitQuestion, start: NDArray[np.float32] = START
) -> NDArray[np.float64]:
    arrays = {"parameters": start}
    layout = fit_layout(P)
    if asked.training.method == "scaffold":
        arrays["control"], layout = np.zeros(P, np.float32), scaffold_layout(P)
    return layout.unpack(made.answer(asked, arrays))["weighted_update"]


@pytest.mark.parametrize(
    "how",
    [{"optimizer": "adam"}, {"momentum": 0.9}, {"gradient_clip": 0.01}, {"proximal": 0.5}],
    ids=["adam", "momentum", "gradient clip", "proximal"],
)
def test_the_question_decides_how_steps_are_taken(how: dict[str, object]) -> None:
    rng = np.random.default_rng([0, 1])
    expected = fit(MODEL, START, TRAINING, settings(**how), rng=rng).parameters
    got = update_of(learner(), question(**how))
    np.testing.assert_allclose(
        got, len(TRAINING) * (expected.astype(np.float64) - START), rtol=1e-4, atol=1e-4
    )
    assert np.abs(got - update_of(learner(), question())).max() > 1e-2


def test_example_privacy_trains_with_noise_and_tells_no_loss() -> None:
    privacy = ExamplePrivacy(clip_norm=0.5, noise_multiplier=1.0, sampling_rate=0.25, steps=12)
    asked = question(example_privacy=privacy)
    parts = fit_layout(P).unpack(learner(random_bytes=seeded()).answer(asked, {"parameters": START}))
    expected = fit_privately(
        MODEL, START, TRAINING, settings(example_privacy=privacy), random_bytes=seeded()
    ).parameters
    moved = len(TRAINING) * (expected.astype(np.float64) - START)
    np.testing.assert_allclose(parts["weighted_update"], moved, rtol=1e-4, atol=1e-3)
    assert (parts["loss_before"], parts["loss_after"], parts["examples"]) == ([0], [0], [len(TRAINING)])
    other = update_of(learner(random_bytes=seeded(1)), asked)
    assert np.abs(other - parts["weighted_update"]).max() > 0.1


def test_scaffold_answers_with_the_change_of_its_variate_by_option_two(tmp_path: Path) -> None:
    store = VariateFile(tmp_path / "variate")
    mine, control = (np.random.default_rng(seed).normal(0, 0.01, P).astype(np.float32) for seed in (2, 3))
    store.keep("r", ARCHITECTURE.layout_sha256, mine)
    device = learner(variates=store)
    arrays = {"parameters": START, "control": control}
    parts = scaffold_layout(P).unpack(device.answer(question(method="scaffold"), arrays))
    n, steps = len(TRAINING), 12
    # Option II of the paper, from the update alone: c_i' = c_i - c + (x - y) / (K η).
    after = mine - control - parts["weighted_update"] / n / (steps * RATE)
    np.testing.assert_allclose(parts["weighted_control"] / n / RATE, after - mine, atol=2e-4)
    assert store.load("r", ARCHITECTURE.layout_sha256, P).tolist() == mine.tolist()
    device.settle()
    np.testing.assert_allclose(store.load("r", ARCHITECTURE.layout_sha256, P), after, atol=2e-4)
    plain = fit_layout(P).unpack(learner().answer(question(), {"parameters": START}))["weighted_update"]
    assert np.abs(plain - parts["weighted_update"]).max() > 1e-2


def test_scaffold_without_the_servers_variate_is_refused() -> None:
    with pytest.raises(QuestionRefusedError, match="lacks the array 'control'"):
        learner().answer(question(method="scaffold"), {"parameters": START})


LATE = {"staleness_exponent": 0.5, "maximum_staleness": 2}


def test_an_update_that_nobody_took_answers_a_later_round_at_once_and_weighs_less() -> None:
    device = learner()
    first = update_of(device, question(1, **LATE))
    moved = START + np.float32(0.1)
    late = update_of(device, question(3, **LATE), moved)
    np.testing.assert_allclose(late, first / 3**0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "settles"),
    [
        (question(2, **LATE), True),
        (question(1, **LATE), False),
        (question(4, **LATE), False),
        (question(2), False),
        (question(2, run_id="another", **LATE), False),
        (question(2, method="scaffold", **LATE), False),
    ],
    ids=["it was taken", "the round is repeated", "too late", "not wanted", "another run", "another method"],
)
def test_otherwise_the_device_trains_anew_from_what_it_is_shown(asked: FitQuestion, settles: bool) -> None:
    device = learner()
    update_of(device, question(1, **LATE))
    if settles:
        device.settle()
    moved = START + np.float32(0.1)
    np.testing.assert_allclose(update_of(device, asked, moved), update_of(learner(), asked, moved), rtol=1e-5)


def test_an_update_ages_until_it_is_taken() -> None:
    device = learner()
    first = update_of(device, question(1, **LATE))
    for number in (2, 3):
        np.testing.assert_allclose(
            update_of(device, question(number, **LATE)), first / number**0.5, rtol=1e-5
        )
    device.settle()
    assert np.abs(update_of(device, question(4, **LATE)) - first).max() > 0


def stores(path: Path) -> list[ControlVariates]:
    return [VariateFile(path / "new" / "variate"), VariateInMemory()]


@pytest.mark.parametrize("kind", [0, 1], ids=["file", "memory"])
def test_a_variate_reads_back_for_its_own_run_and_layout_alone(tmp_path: Path, kind: int) -> None:
    store = stores(tmp_path)[kind]
    assert store.load("r", "a" * 64, 3).tolist() == [0, 0, 0]
    store.keep("r", "a" * 64, np.array([1, 2, 3], np.float32))
    assert store.load("r", "a" * 64, 3).tolist() == [1, 2, 3]
    for run, layout, size in (("q", "a" * 64, 3), ("r", "b" * 64, 3), ("r", "a" * 64, 4)):
        assert store.load(run, layout, size).tolist() == [0] * size


def test_a_variate_survives_its_process_and_is_for_the_owners_eyes(tmp_path: Path) -> None:
    path = tmp_path / "variate"
    VariateFile(path).keep("r", "a" * 64, np.array([1, 2], np.float32))
    assert VariateFile(path).load("r", "a" * 64, 2).tolist() == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_variate_is_zeros(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "variate"
    store = VariateFile(path)
    store.keep("r", "a" * 64, np.array([1, 2], np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    assert store.load("r", "a" * 64, 2).tolist() == [0, 0]
    at = content.index(np.array([1, 2], "<f4").tobytes())
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    assert store.load("r", "a" * 64, 2).tolist() == [0, 0]


def test_a_full_disk_costs_the_variate_and_not_the_round(caplog: pytest.LogCaptureFixture) -> None:
    class FullDisk(VariateInMemory):
        def keep(self, run_id: str, layout_sha256: str, variate: NDArray[np.float32]) -> None:
            raise StorageError("no space left on device")

    device = learner(variates=FullDisk())
    update_of(device, question(method="scaffold"))
    device.settle()
    assert "control_variate_lost no space left" in caplog.text
    update_of(device, question(2, method="scaffold"))


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_a_training_that_diverged_tells_no_number_of_this_device(private: bool) -> None:
    # Weights so large that the loss overflows and the parameters do not: the largest of those depends on the windows.
    start, told = START.copy(), set()
    start[-30:-6] = 1e20
    privacy = ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, steps=2)
    asked = question(epochs=1, batch_size=100, example_privacy=privacy if private else None)
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(60, 6)).astype(np.float32)
        with pytest.raises(TrainingDivergedError) as refused:
            LocalLearner(MODEL, rows, maximum_examples=100).answer(asked, {"parameters": start})
        told.add(str(refused.value))
    assert told == {"training diverged; the learning rate may be too high for this device's data"}


@pytest.mark.parametrize("method", ["plain", "scaffold"])
def test_a_step_too_long_for_this_device_is_halved_until_it_learns(method: str) -> None:
    # On these windows 0.1 learns and 200 diverges; a fleet shall not lose a device over that.
    kept = VariateInMemory()
    made = learner(variates=kept)
    asked = question(learning_rate=200.0, epochs=2, method=method)
    update = update_of(made, asked)
    halved = next(
        rate
        for rate in (200.0 / 2**k for k in range(7))
        if not _diverges(settings(learning_rate=rate, epochs=2))
    )
    assert halved < 200.0
    rng = np.random.default_rng([0, 1])
    expected = fit(MODEL, START, TRAINING, settings(learning_rate=halved, epochs=2), rng=rng)
    np.testing.assert_allclose(
        update, 48 * (expected.parameters.astype(np.float64) - START), rtol=1e-5, atol=1e-5
    )
    if method == "scaffold":
        made.settle()
        gradient = (START - expected.parameters.astype(np.float64)) / (expected.steps * halved)
        np.testing.assert_allclose(
            kept.load("r", ARCHITECTURE.layout_sha256, P), gradient, rtol=1e-3, atol=1e-5
        )


def _diverges(how: TrainingSettings) -> bool:
    try:
        fit(MODEL, START, TRAINING, how, rng=np.random.default_rng([0, 1]))
    except ParameterError:
        return True
    return False


def test_a_device_of_fourteen_windows_answers_every_question() -> None:
    few = LocalLearner(MODEL, ROWS[:14], maximum_examples=100)
    layout = {"run_id": "r", "layout_sha256": ARCHITECTURE.layout_sha256}
    asked = {
        question(): {"parameters": START},
        AssessQuestion(**layout): {"candidate": START, "champion": START},
    }
    examples = {}
    for one, arrays in asked.items():
        parts = few.layout_of(kind_of(one)).unpack(few.answer(one, arrays))
        examples[kind_of(one)] = float(parts["examples"][0])
    assert examples == {"train.fit": 12, "evaluate.assess": 2}
    # What it has most to gain from, the fleet's threshold, counts all it has.
    assert parts["threshold_scores"].sum() == 14
