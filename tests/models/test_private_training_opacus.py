"""Clipped sums of the LiteRT graph against Opacus, used here as its manual says and nothing of ours between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_samples import ARCHITECTURES, at_rate, labels, parameters, training_bytes, windows
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.utils.data import DataLoader, TensorDataset
from training_models import training_model

from models.architecture import Architecture, initial_parameters
from models.torch_model import TorchModel
from models.training_model import TrainingModel

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("name", ARCHITECTURES)
quiet = pytest.mark.filterwarnings("ignore::UserWarning")  # Opacus on secure mode, PyTorch on hooks


def torch_model(architecture: Architecture, flat: np.ndarray) -> TorchModel:
    model = TorchModel(architecture)
    model.load_flat(flat)
    return model


def opacus_summed_gradient(architecture, flat, x, y, clip) -> np.ndarray:
    """`summed_grad` of a DPOptimizer without noise after one backward pass."""
    model = torch_model(architecture, flat)
    GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=len(x),
        loss_reduction="sum",
    )
    model.losses(torch.from_numpy(x), None if y is None else torch.from_numpy(y)).sum().backward()
    optimizer.pre_step()
    return model.flatten(parameter.summed_grad for parameter in model.parameters())


@quiet
@both
@pytest.mark.parametrize("clip", [1e-3, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("batch", [1, 32])
def test_the_clipped_sum_is_that_of_opacus(name, clip, batch) -> None:
    x, y = windows(name, batch), labels(name, batch)
    expected = opacus_summed_gradient(ARCHITECTURES[name], parameters(name), x, y, clip)
    model = TrainingModel(training_bytes(name), ARCHITECTURES[name])
    model.restore(parameters(name))
    total, _ = model.clipped_sum(x, clip, labels=y)
    assert np.linalg.norm(total - expected) < 1e-5 * np.linalg.norm(expected)


@quiet
def test_deeper_and_wider_models_give_opacus_sums_too() -> None:
    architecture = Architecture(kind="dense-classifier", layers=(40, 30, 20, 30, 10))
    rng = np.random.default_rng(2)
    flat = initial_parameters(architecture, 1)
    x = rng.normal(size=(50, 40)).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 50)]
    model = TrainingModel(training_model(architecture), architecture)
    model.restore(flat)
    for clip in (0.05, 0.5):
        total, _ = model.clipped_sum(x, clip, labels=y)
        expected = opacus_summed_gradient(architecture, flat, x, y, clip)
        assert np.linalg.norm(total - expected) < 1e-5 * np.linalg.norm(expected)


@quiet
@both
def test_a_step_along_the_clipped_mean_is_that_of_a_privacy_engine_without_noise(name) -> None:
    x, y, rate, clip = windows(name, 32), labels(name, 32), 0.3, 0.4
    module = torch_model(ARCHITECTURES[name], parameters(name))
    loader = DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=32)
    _, optimizer, _ = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=rate),
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=clip,
        poisson_sampling=False,
    )
    module.loss(torch.from_numpy(x), None if y is None else torch.from_numpy(y)).backward()
    optimizer.step()
    model = TrainingModel(training_bytes(name), ARCHITECTURES[name])
    model.restore(parameters(name))
    total, _ = model.clipped_sum(x, clip, labels=y)
    model.step(total / 32, at_rate(rate))
    way = np.linalg.norm(module.flat() - parameters(name))
    assert np.linalg.norm(model.save() - module.flat()) < 1e-5 * way
