"""Private training: clipped sums against one gradient at a time, batches and noise against their distributions."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import reference_training
from model_samples import ARCHITECTURES, AUTOENCODER, labels, parameters, training_bytes, windows

from models.architecture import split_parameters
from models.errors import InputError, LayoutError, ParameterError, TrainingSettingsError
from models.private_training import FLOAT_SLACK, _clipped_total, fit_privately
from models.training_model import TrainingModel
from protocol.privacy.randomness import KEY_BYTES
from protocol.training import ExamplePrivacy, TrainingSettings

pytestmark = pytest.mark.edge

both = pytest.mark.parametrize("name", ARCHITECTURES)


def model_of(name: str) -> TrainingModel:
    return TrainingModel(training_bytes(name), ARCHITECTURES[name])


def bytes_from(seed: int):
    """Random bytes that a test can repeat."""
    generator = np.random.default_rng(seed)
    return generator.bytes


def one_by_one(name: str, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
    """The gradient of every window by itself (n, P), float64."""
    return np.array(
        [
            reference_training.loss_and_gradient(
                ARCHITECTURES[name], parameters(name), x[i : i + 1], None if y is None else y[i : i + 1]
            )[1]
            for i in range(len(x))
        ]
    )


def clipped(gradients: np.ndarray, clip: float) -> np.ndarray:
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1.0, clip / norms)


def fit_sample(name: str = "autoencoder", *, model=None, **change):
    x = change.pop("x", windows(name, 80))
    privacy = {"steps": 20, "sampling_rate": 0.25, "clip_norm": 1.0, "noise_multiplier": 1.0}
    settings, rest = privately(privacy | {"learning_rate": 0.1} | change)
    given = {"random_bytes": bytes_from(1), "labels": labels(name, len(x))} | rest
    return fit_privately(model or model_of(name), parameters(name), x, settings, **given)


def privately(values: dict[str, object]) -> tuple[TrainingSettings, dict[str, object]]:
    """Values by field name as settings with example privacy, and those that are neither's."""
    privacy, plain = set(ExamplePrivacy.__struct_fields__), set(TrainingSettings.__struct_fields__)
    example = ExamplePrivacy(**{k: v for k, v in values.items() if k in privacy})
    settings = TrainingSettings(example_privacy=example, **{k: v for k, v in values.items() if k in plain})
    return settings, {k: v for k, v in values.items() if k not in privacy | plain}


class Recorder:
    """A model without weights: its gradients are given, its steps are kept."""

    architecture = AUTOENCODER

    def __init__(self, size: int, *, of_one: float = 0.0) -> None:
        self.size, self.of_one = size, of_one
        self.batches: list[int] = []
        self.windows = 0
        self.gradients: list[np.ndarray] = []

    def restore(self, flat, correction=None) -> None:
        self.parameters = np.array(flat, np.float32)

    def save(self):
        return self.parameters

    def clipped_sum(self, x, clip_norm, *, labels=None):
        self.windows += len(x)
        return np.full(self.size, self.of_one * len(x), np.float32), 0.0

    def ranges(self, x):
        return np.zeros(2, np.float32), np.ones(2, np.float32)

    def step(self, gradient, settings) -> None:
        self.gradients.append(np.array(gradient))
        self.batches.append(self.windows)
        self.windows = 0

    def infer(self, x):
        return x, np.ones(len(x), np.float32)


def record(recorder: Recorder, **change) -> Recorder:
    x = change.pop("x", np.zeros((50, 3), np.float32))
    privacy = {"steps": 200, "sampling_rate": 0.2, "clip_norm": 2.0, "noise_multiplier": 1.5}
    settings, _ = privately(privacy | {"learning_rate": 0.1} | change)
    fit_privately(recorder, np.zeros(recorder.size), x, settings, random_bytes=bytes_from(5))
    return recorder


def parameters_that_hide_a_gradient(x: np.ndarray) -> np.ndarray:
    """For a window x (6,): activations of 1e19 times derivatives of 1e-19, whose squares the kernels flush to zero."""
    flat = np.zeros(AUTOENCODER.parameter_count, np.float32)
    w0, _, _, b1, w2, b2, w3, _ = split_parameters(AUTOENCODER, flat)
    w0[0], b1[:], b2[:], w3[:] = 9e18, 1e-6, 1e-6, -0.25
    w2[:] = 0.9e-19 / (w3 @ (-2 / 6 * x)).sum()
    return flat


def test_no_parameters_make_a_window_count_for_more_than_the_clip() -> None:
    x = np.array([[1, 0.3, 0.3, 0.3, 0.3, 0.3], [0, 0.3, 0.3, 0.3, 0.3, 0.3]], np.float32)
    flat = parameters_that_hide_a_gradient(x[0])
    model = model_of("autoencoder")
    model.restore(flat)
    total = _clipped_total(model, x, None, np.array([0, 1]), 0.5, len(flat))
    alone = model.clipped_sum(x[1:], 0.5)[0]
    assert total == pytest.approx(alone)  # and the other window is not lost
    assert 0.1 < np.linalg.norm(total) <= 0.5 * (1 + FLOAT_SLACK)


class Counted:
    """The real model, and which of its functions was called with how many windows."""

    def __init__(self, model: TrainingModel) -> None:
        self._model, self.architecture, self.calls = model, model.architecture, []

    def __getattr__(self, name: str):
        method = getattr(self._model, name)

        def call(x, *arguments, **options):
            self.calls.append((name, len(x)))
            return method(x, *arguments, **options)

        return call


@pytest.mark.parametrize("end", [3e38, 1.0], ids="largest value {}".format)
def test_a_window_that_cannot_be_measured_takes_as_much_work_as_any_other(end: float) -> None:
    """Who could see the difference in time could ask, by parameters made for it, how large a window is."""
    plain = np.array([[0, 0.3, 0.3, 0.3, 0.3, 0.3]] * 3, np.float32)
    other = plain.copy()
    other[1, 0] = end
    flat = parameters_that_hide_a_gradient(plain[0])
    worked = []
    for x in (plain, other):
        model = Counted(model_of("autoencoder"))
        model.restore(flat)
        assert np.isfinite(_clipped_total(model, x, None, np.arange(3), 0.5, len(flat))).all()
        worked.append(model.calls)
    assert worked[0] == worked[1]


def test_a_convolution_whose_terms_cancel_is_clipped_all_the_same() -> None:
    architecture = ARCHITECTURES["convolution"]
    flat = np.zeros(architecture.parameter_count, np.float32)
    split_parameters(architecture, flat)[5][:] = 1e5  # what the last layer gets at every position
    model = model_of("convolution")
    model.restore(flat)
    norms = []
    for seed in range(8):
        levels = np.random.default_rng(seed).normal(size=(6, 4))
        levels[[0, 5]] = 0.0
        levels[1:5] -= levels[1:5].mean(axis=0)  # derivatives cancel over the positions, but for a little
        levels[2] += 1e-5
        x = levels.reshape(1, -1).astype(np.float32)
        norms.append(np.linalg.norm(_clipped_total(model, x, None, np.array([0]), 1e-3, len(flat))))
    assert max(norms) <= 1e-3 * (1 + FLOAT_SLACK)
    assert any(norms), "a window whose norm is lost counts as zero, but not every one here is"


@both
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0], ids="share clipped {}".format)
def test_a_clipped_sum_equals_the_sum_of_gradients_taken_one_by_one(name, share) -> None:
    x, y, model = windows(name, 33), labels(name, 33), model_of(name)
    gradients = one_by_one(name, x, y)
    clip = float(np.quantile(np.linalg.norm(gradients, axis=1), 1 - share)) * (0.5 if share == 1 else 1)
    model.restore(parameters(name))
    total, loss = model.clipped_sum(x, clip, labels=y)
    expected = clipped(gradients, clip).sum(axis=0)
    assert np.linalg.norm(total - expected) < 1e-5 * np.linalg.norm(expected)
    assert loss == pytest.approx(
        reference_training.loss_and_gradient(ARCHITECTURES[name], parameters(name), x, y)[0], rel=1e-5
    )
    assert np.array_equal(model.save(), parameters(name))


@both
def test_no_window_moves_a_sum_by_more_than_the_clip_and_its_slack(name) -> None:
    model, clip = model_of(name), 0.05
    x, y = windows(name, 200), labels(name, 200)
    x[100] *= 1000.0
    model.restore(parameters(name))
    whole, _ = model.clipped_sum(x, clip, labels=y)
    kept = np.arange(200) != 100
    without, _ = model.clipped_sum(x[kept], clip, labels=None if y is None else y[kept])
    moved = np.linalg.norm(whole.astype(np.float64) - without)
    # A hundred times closer than the noise makes room for.
    assert moved < clip * (1 + FLOAT_SLACK / 100)
    assert moved > 0.99 * clip


@both
@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"optimizer": "adam", "learning_rate": 0.02}], ids=str
)
def test_private_training_with_little_noise_learns(name, settings) -> None:
    result = fit_sample(name, steps=60, noise_multiplier=0.01, **settings)
    assert result.loss_after < 0.95 * result.loss_before
    assert result.steps == 60


def test_the_same_bytes_train_the_same_model_and_other_bytes_another() -> None:
    first, again, other = (fit_sample(random_bytes=bytes_from(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.parameters, again.parameters)
    assert not np.array_equal(first.parameters, other.parameters)


def test_randomness_comes_from_the_given_source_alone() -> None:
    asked = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    fit_sample(random_bytes=source)
    assert asked == [KEY_BYTES]
    assert not np.array_equal(
        fit_sample(random_bytes=os.urandom).parameters, fit_sample(random_bytes=os.urandom).parameters
    )


def test_batches_are_poisson_samples_and_divided_by_their_expected_size() -> None:
    recorder = record(Recorder(1, of_one=1.0), steps=2000, noise_multiplier=1e-6)
    sizes = np.array(recorder.batches)
    # 2000 binomials (50, 0.2): mean 10 ± 0.06, variance 8 ± 0.25.
    assert sizes.mean() == pytest.approx(10, abs=0.3)
    assert sizes.var() == pytest.approx(8, abs=1.2)
    moved = np.array([gradient[0] for gradient in recorder.gradients])
    np.testing.assert_allclose(moved, sizes / 10, atol=1e-3)


def test_a_rate_of_one_takes_every_window_every_time() -> None:
    assert record(Recorder(1), sampling_rate=1.0, steps=20).batches == [50] * 20


def test_an_empty_batch_is_a_step_along_noise_alone() -> None:
    recorder = record(Recorder(40), sampling_rate=1e-9, steps=50)
    assert recorder.batches == [0] * 50
    assert all(np.any(gradient) for gradient in recorder.gradients)


def test_noise_has_the_planned_width_for_clip_slack_and_rounding() -> None:
    size, steps, multiplier, clip = 100, 400, 1.5, 2.0
    recorder = record(Recorder(size), steps=steps, noise_multiplier=multiplier, clip_norm=clip)
    noise = np.concatenate(recorder.gradients) * (0.2 * 50)
    found = noise.std()
    # Never narrower than z·C, and wider only by the slack and √P lattice steps.
    lattice_step = np.min(np.abs(noise[noise != 0]))
    planned = multiplier * (clip * (1 + FLOAT_SLACK) + math.sqrt(size) * lattice_step)
    assert planned == pytest.approx(multiplier * clip, rel=0.005)
    assert found == pytest.approx(planned, rel=5 / math.sqrt(2 * size * steps))
    assert noise.mean() == pytest.approx(0, abs=5 * planned / math.sqrt(size * steps))


def test_what_leaves_lies_on_a_lattice_that_does_not_depend_on_the_windows() -> None:
    # A float sum plus float noise would carry the sum's own low bits (Mironov 2012).
    lattices = []
    for of_one in (0.0, 0.1234567):
        recorder = record(Recorder(30, of_one=of_one), steps=30, noise_multiplier=1.0)
        values = np.concatenate(recorder.gradients)
        step = 2.0 * (1 + FLOAT_SLACK) / (2**14 - math.sqrt(30)) / (0.2 * 50)
        lattices.append(np.abs(values / step - np.rint(values / step)).max())
    assert max(lattices) < 1e-9


def test_noise_that_the_lattice_cannot_carry_is_refused() -> None:
    with pytest.raises(TrainingSettingsError, match="would be half rounding; at most"):
        fit_sample(noise_multiplier=2000.0)


def test_settings_without_example_privacy_are_refused() -> None:
    x, start = windows("autoencoder", 8), parameters("autoencoder")
    with pytest.raises(TrainingSettingsError, match="needs settings with example_privacy"):
        fit_privately(model_of("autoencoder"), start, x, TrainingSettings(), random_bytes=os.urandom)


def test_windows_that_cannot_be_trained_on_are_refused() -> None:
    x = windows("autoencoder", 80)
    x[13, 2] = np.nan
    with pytest.raises(InputError, match="window 13 of 80"):
        fit_sample(x=x)
    with pytest.raises(InputError, match="needs windows"):
        fit_sample(x=x[:0])
    with pytest.raises(LayoutError, match="has shape"):
        fit_privately(
            model_of("autoencoder"),
            np.zeros(3),
            windows("autoencoder", 8),
            privately({"steps": 1, "sampling_rate": 0.5, "noise_multiplier": 1.0})[0],
            random_bytes=os.urandom,
        )


def test_private_training_that_diverges_is_refused() -> None:
    with pytest.raises(ParameterError, match="diverged"):
        fit_sample(learning_rate=1e6, steps=30)


def test_a_proximal_pull_and_a_correction_reach_the_steps() -> None:
    size = AUTOENCODER.parameter_count
    still = {"noise_multiplier": 0.01, "steps": 40}
    free = fit_sample(**still).parameters - parameters("autoencoder")
    pulled = fit_sample(**still, proximal=5.0).parameters - parameters("autoencoder")
    pushed = fit_sample(**still, correction=np.full(size, 0.1)).parameters - parameters("autoencoder")
    assert np.linalg.norm(pulled) < 0.6 * np.linalg.norm(free)
    assert (pushed - free).mean() == pytest.approx(-40 * 0.1 * 0.1, rel=0.3)
