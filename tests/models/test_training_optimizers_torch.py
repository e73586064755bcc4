"""The optimizers inside the training graph against PyTorch's own, over twenty steps from the same parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_samples import ARCHITECTURES, at_rate, labels, parameters, training_bytes, windows

from models.torch_model import TorchModel
from models.training_model import TrainingModel

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("name", ARCHITECTURES)


def trained_by_torch(name, make_optimizer, *, gradient_clip=None, proximal=0.0) -> np.ndarray:
    """Twenty steps of `torch.optim` in float64, clipped by `clip_grad_norm_`, with FedProx' term in the loss."""
    model = TorchModel(ARCHITECTURES[name])
    model.load_flat(parameters(name))
    model.double()
    anchor = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model.parameters())
    for step in range(20):
        x = torch.from_numpy(windows(name, 16, seed=step)).double()
        y = labels(name, 16, seed=step)
        loss = model.loss(x, None if y is None else torch.from_numpy(y).double())
        for parameter, kept in zip(model.parameters(), anchor, strict=True):
            loss = loss + proximal / 2 * ((parameter - kept) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        if gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        optimizer.step()
    return model.flat()


def trained_in_the_graph(name, learning_rate, **settings) -> np.ndarray:
    model = TrainingModel(training_bytes(name), ARCHITECTURES[name])
    model.restore(parameters(name))
    for step in range(20):
        model.train(
            windows(name, 16, seed=step),
            at_rate(learning_rate, **settings),
            labels=labels(name, 16, seed=step),
        )
    return model.save()


def assert_equal_paths(name, found: np.ndarray, expected: np.ndarray) -> None:
    way = np.linalg.norm(expected - parameters(name))
    assert np.linalg.norm(found - expected) < 1e-5 * way
    assert way > 0.1


@both
def test_momentum_is_that_of_torch_sgd(name) -> None:
    expected = trained_by_torch(name, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    assert_equal_paths(name, trained_in_the_graph(name, 0.1, momentum=0.9), expected)


@both
def test_adam_is_that_of_torch(name) -> None:
    expected = trained_by_torch(name, lambda p: torch.optim.Adam(p, lr=0.01))
    assert_equal_paths(name, trained_in_the_graph(name, 0.01, optimizer="adam"), expected)


@both
def test_clipping_is_that_of_torch_clip_grad_norm(name) -> None:
    expected = trained_by_torch(name, lambda p: torch.optim.SGD(p, lr=0.5), gradient_clip=0.1)
    free = trained_by_torch(name, lambda p: torch.optim.SGD(p, lr=0.5))
    assert_equal_paths(name, trained_in_the_graph(name, 0.5, gradient_clip=0.1), expected)
    assert np.linalg.norm(free - expected) > 0.1


@both
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_proximal_pull_is_the_gradient_of_fedprox_term(name, optimizer) -> None:
    rate, make = {"sgd": (0.1, torch.optim.SGD), "adam": (0.01, torch.optim.Adam)}[optimizer]
    expected = trained_by_torch(name, lambda p: make(p, lr=rate), gradient_clip=0.5, proximal=0.4)
    found = trained_in_the_graph(name, rate, optimizer=optimizer, gradient_clip=0.5, proximal=0.4)
    assert_equal_paths(name, found, expected)
