"""The device's training loop and its answer to an assessment."""

from __future__ import annotations

import numpy as np
import pytest
import reference_training
from model_samples import ARCHITECTURES, AUTOENCODER, labels, parameters, training_bytes, windows

from models import reference_model
from models.errors import InputError, ParameterError
from models.local_training import assess, fit
from models.training_model import TrainingModel
from protocol.grids import RANGE_GRID, SCORE_GRID
from protocol.questions import assess_layout
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge


def model_of(name: str) -> TrainingModel:
    return TrainingModel(training_bytes(name), ARCHITECTURES[name])


def fit_sample(name: str, **change):
    rng, x = np.random.default_rng(change.pop("seed", 1)), change.pop("x", windows(name, 70))
    settings = TrainingSettings(**{"epochs": 8, "batch_size": 16, "learning_rate": 0.1} | change)
    return fit(model_of(name), parameters(name), x, settings, rng=rng, labels=labels(name, 70))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_lowers_the_loss_and_counts_its_steps(name) -> None:
    result = fit_sample(name)
    assert result.loss_after < 0.97 * result.loss_before
    assert result.steps == 8 * 5
    before, _ = reference_training.loss_and_gradient(
        ARCHITECTURES[name], parameters(name), windows(name, 70), labels(name, 70)
    )
    after, _ = reference_training.loss_and_gradient(
        ARCHITECTURES[name], result.parameters, windows(name, 70), labels(name, 70)
    )
    assert (result.loss_before, result.loss_after) == pytest.approx((before, after), rel=1e-5)


def test_one_epoch_equals_the_oracles_steps_in_the_same_order() -> None:
    result = fit_sample("autoencoder", epochs=1, proximal=0.2)
    x, expected = windows("autoencoder", 70), parameters("autoencoder")
    order = np.random.default_rng(1).permutation(70)
    for at in range(0, 70, 16):
        expected, _ = reference_training.train_step(
            AUTOENCODER, expected, x[order[at : at + 16]], 0.1, anchor=parameters("autoencoder"), proximal=0.2
        )
    np.testing.assert_allclose(result.parameters, expected, atol=1e-5)


def test_the_same_seed_trains_the_same_model_and_another_seed_another() -> None:
    first, again, other = (
        fit_sample("autoencoder"),
        fit_sample("autoencoder"),
        fit_sample("autoencoder", seed=2),
    )
    assert np.array_equal(first.parameters, again.parameters)
    assert not np.array_equal(first.parameters, other.parameters)


def test_a_proximal_term_keeps_the_update_short() -> None:
    start = parameters("autoencoder")
    free = np.linalg.norm(fit_sample("autoencoder").parameters - start)
    pulled = np.linalg.norm(fit_sample("autoencoder", proximal=5.0).parameters - start)
    assert pulled < 0.5 * free


def test_training_that_diverges_is_refused_after_as_many_steps_as_any_other_takes() -> None:
    with pytest.raises(ParameterError, match="diverged after 150 steps"):
        fit_sample("autoencoder", learning_rate=1e6, epochs=30)


def test_training_that_ends_ten_times_worse_than_doing_nothing_has_diverged_finite_or_not() -> None:
    """A parameter of 3.4e30 is finite in float32."""
    x = windows("autoencoder", 70)

    class Runaway:
        """Ends where it is told to."""

        def __init__(self, end: float, loss: float) -> None:
            self.flat, self.end, self.loss = np.zeros(1, np.float32), end, loss

        def restore(self, flat, correction=None) -> None:
            self.flat = np.zeros(1, np.float32)

        def save(self) -> np.ndarray:
            return self.flat

        def train(self, x, settings, *, labels=None) -> float:
            self.flat = np.full(1, self.end, np.float32)
            return 1.0

        def infer(self, x) -> tuple[np.ndarray, np.ndarray]:
            return x, np.full(len(x), self.loss if self.flat[0] else 1.0, np.float32)

    idle = float(np.square(x).mean())
    settings = TrainingSettings(epochs=1, batch_size=70)
    for end, loss, is_sound in (
        (1e4, 1.0, True),
        (2e4, 1.0, False),
        (3.4e30, 1.0, False),
        (1.0, 9.9 * max(idle, 1.0), True),
        (1.0, 10.1 * max(idle, 1.0), False),
    ):
        model = Runaway(end, loss)
        if is_sound:
            assert fit(model, np.zeros(1), x, settings, rng=np.random.default_rng(0)).steps == 1  # type: ignore[arg-type]
        else:
            with pytest.raises(ParameterError, match="diverged after 1 steps"):
                fit(model, np.zeros(1), x, settings, rng=np.random.default_rng(0))  # type: ignore[arg-type]


def test_training_that_ends_in_finite_parameters_without_a_finite_loss_is_refused() -> None:
    """So it ends on aarch64: fused multiply-adds stop short of infinity (found by make prove-arm64)."""
    with pytest.raises(ParameterError, match="the loss is inf"):
        fit_sample("autoencoder", learning_rate=1e6, epochs=1)


@pytest.mark.parametrize("x", [np.zeros((0, 6)), np.zeros(6)])
def test_training_without_windows_is_refused(x) -> None:
    with pytest.raises(InputError, match="needs windows"):
        fit_sample("autoencoder", x=x)


def test_a_window_that_is_not_finite_is_named() -> None:
    x = windows("autoencoder", 70)
    x[13, 2] = np.nan
    with pytest.raises(InputError, match="window 13 of 70"):
        fit_sample("autoencoder", x=x)
    with pytest.raises(InputError, match="window 13 of 70"):
        assess(
            model_of("autoencoder"), parameters("autoencoder"), parameters("autoencoder"), x, quantile=0.999
        )


@pytest.mark.parametrize("quantile", [0.5, 0.999])
def test_the_vote_and_the_ranges_count_windows_that_were_trained_on_and_nothing_else_does(
    quantile: float,
) -> None:
    held_out, trained_on = windows("autoencoder", 50), windows("autoencoder", 200)[50:]
    model, flat = model_of("autoencoder"), parameters("autoencoder")
    alone = assess(model, flat, flat, held_out, quantile=quantile)
    parts = assess(model, flat, flat, held_out, trained_on=trained_on, quantile=quantile)
    scores = reference_model.infer(AUTOENCODER, flat, np.concatenate([held_out, trained_on]))[1]
    np.testing.assert_array_equal(parts["threshold_votes"], SCORE_GRID.count(np.quantile(scores, [quantile])))
    np.testing.assert_array_equal(
        alone["threshold_votes"], SCORE_GRID.count(np.quantile(scores[:50], [quantile]))
    )
    low, high = reference_model.ranges(AUTOENCODER, flat, np.concatenate([held_out, trained_on]))
    for name, extremes in (("range_low", low), ("range_high", high)):
        np.testing.assert_array_equal(
            parts[name], np.concatenate([RANGE_GRID.count(one) for one in extremes[:, None]])
        )
    for name in parts.keys() - {"threshold_votes", "range_low", "range_high"}:
        np.testing.assert_array_equal(parts[name], alone[name])
    trained_on[7, 1] = np.inf
    with pytest.raises(InputError, match="window 7 of 150"):
        assess(model, flat, flat, held_out, trained_on=trained_on, quantile=0.999)


def test_an_assessment_fits_the_protocols_layout_and_says_what_the_oracle_says() -> None:
    x, champion = windows("autoencoder", 50), parameters("autoencoder")
    candidate = champion * np.float32(0.9)
    parts = assess(model_of("autoencoder"), candidate, champion, x, quantile=0.999)
    layout = assess_layout(AUTOENCODER.tensor_count, AUTOENCODER.feature_count)
    parts = layout.unpack(layout.pack(parts))
    candidate_scores = reference_model.infer(AUTOENCODER, candidate, x)[1]
    champion_scores = reference_model.infer(AUTOENCODER, champion, x)[1]
    assert parts["examples"] == 50
    assert parts["candidate_loss"] == pytest.approx(candidate_scores.sum(), rel=1e-5)
    assert parts["champion_loss"] == pytest.approx(champion_scores.sum(), rel=1e-5)
    assert parts["candidate_scores"].sum() == parts["champion_scores"].sum() == 50
    assert SCORE_GRID.quantile(parts["candidate_scores"], 0.5) == pytest.approx(
        np.median(candidate_scores), rel=0.1
    )
    np.testing.assert_allclose(parts["feature_sum"], x.sum(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(parts["feature_squares"], (x**2).sum(axis=0), rtol=1e-4)
    assert (parts["feature_counts"].reshape(6, -1).sum(axis=1) == 50).all()
    low, high = reference_model.ranges(AUTOENCODER, candidate, x)
    lows = parts["range_low"].reshape(AUTOENCODER.tensor_count, -1)
    highs = parts["range_high"].reshape(AUTOENCODER.tensor_count, -1)
    for t in range(AUTOENCODER.tensor_count):
        lower, upper = RANGE_GRID.outer_bounds(lows[t], highs[t])
        assert lower <= low[t] <= high[t] <= upper
        assert upper <= max(high[t] * 1.1, 2**-6)
