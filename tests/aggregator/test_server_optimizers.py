"""Server optimisers: published recursions and constants, and what no step may change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rounds.optimizers import (
    OPTIMIZERS,
    FedAdam,
    FedAvg,
    FedAvgM,
    ServerOptimizer,
    make_server_optimizer,
)
from runtime.errors import SettingsError

every_optimizer = pytest.mark.parametrize("optimizer", [make_server_optimizer(name) for name in OPTIMIZERS])


@every_optimizer
def test_a_step_changes_neither_its_arguments_nor_their_types(optimizer: ServerOptimizer) -> None:
    w, update = np.float32([1, 2, 3]), np.array([0.1, -0.2, 0.0])
    state = optimizer.init(w)
    kept = state.copy()
    step = optimizer.step(state, w, update)
    assert w.tolist() == [1, 2, 3]
    assert np.array_equal(state, kept)
    assert step.parameters.dtype == np.float32
    assert step.state.shape == state.shape


@every_optimizer
def test_nothing_learned_is_nothing_moved(optimizer: ServerOptimizer) -> None:
    w = np.float32([1, -2])
    assert np.array_equal(optimizer.step(optimizer.init(w), w, np.zeros(2)).parameters, w)


@every_optimizer
def test_a_step_goes_where_the_cohort_went(optimizer: ServerOptimizer) -> None:
    w, update = np.zeros(4, np.float32), np.array([1.0, -1.0, 0.5, -0.5])
    moved = optimizer.step(optimizer.init(w), w, update).parameters
    assert np.array_equal(np.sign(moved), np.sign(update))


@every_optimizer
def test_steps_find_the_bottom_of_a_bowl(optimizer: ServerOptimizer) -> None:
    w, target = np.zeros(3, np.float32), np.array([0.3, -0.2, 0.1])
    state = optimizer.init(w)
    for _ in range(400):
        state, w = optimizer.step(state, w, 0.5 * (target - w))
    assert np.allclose(w, target, atol=0.02)


def test_fedavg_is_the_mean_of_the_models_weighted_by_examples() -> None:
    w, models, n = np.float32([1, 1]), np.array([[3.0, 1.0], [0.0, 5.0]]), np.array([10.0, 30.0])
    naive = (n[:, None] * models).sum(0) / n.sum()
    update = (n[:, None] * (models - w)).sum(0) / n.sum()
    assert np.allclose(FedAvg().step(FedAvg().init(w), w, update).parameters, naive)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_fedadam_is_the_papers_recursion_written_out(updates: list[float]) -> None:
    adam = FedAdam(learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    w = np.zeros(1, np.float32)
    state = adam.init(w)
    for update in updates:
        state, w = adam.step(state, w, np.array([update]))
    # unrolled: m_t and v_t as sums over the past instead of recursions
    t, x = len(updates), 0.0
    for k in range(1, t + 1):
        m = sum(0.1 * 0.9 ** (k - i) * updates[i - 1] for i in range(1, k + 1))
        v = 0.99**k * 1e-6 + sum(0.01 * 0.99 ** (k - i) * updates[i - 1] ** 2 for i in range(1, k + 1))
        x += 0.1 * m / (v**0.5 + 1e-3)
    assert w[0] == pytest.approx(x, rel=1e-4, abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_fedavgm_is_the_papers_recursion_written_out(updates: list[float]) -> None:
    momentum = FedAvgM(learning_rate=0.1, momentum=0.7)
    w = np.zeros(1, np.float32)
    state = momentum.init(w)
    for update in updates:
        state, w = momentum.step(state, w, np.array([update]))
    x = sum(0.1 * 0.7 ** (k - i) * update for i, update in enumerate(updates) for k in range(i, len(updates)))
    assert w[0] == pytest.approx(x, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("fedavg", FedAvg(learning_rate=1.0)),  # arXiv:1602.05629v4: the mean of the models, nothing else
        ("fedadam", FedAdam(learning_rate=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3)),  # arXiv:2003.00295v5
        ("fedavgm", FedAvgM(learning_rate=0.5, momentum=0.8)),  # 2.5 times as far as FedAvg, in the end
    ],
)
def test_an_optimizer_has_its_published_constants_and_another_rate_only_when_told(
    name: str, published: FedAvg | FedAdam | FedAvgM
) -> None:
    assert make_server_optimizer(name) == published
    assert make_server_optimizer(name, 0.125) == replace(published, learning_rate=0.125)


def test_an_unknown_optimizer_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SettingsError, match="valid are fedavg, fedadam"):
        make_server_optimizer("fedsgd")
