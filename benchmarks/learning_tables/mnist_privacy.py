"""MNIST with privacy: what fifty rounds over a hundred devices can learn when the released models may say little about anyone.

Two units, which are very different promises.

**An image** (`Example`): all hundred devices answer each round with the sum of the gradients of a Poisson sample (a tenth) of their
images, each clipped to C. A device's sum is rounded to a lattice, gets its share of the noise, discrete Gaussian, and goes through the
secure sum; the server sees total and noise only, and steps with momentum. One image moves the total by C at most (a projection onto a ball
does not lengthen that; rounding adds 2 √D lattice steps, which is counted), so with noise of standard deviation z C it is the Poisson-sampled
Gaussian at rate 0.1, fifty times. The same number of images a round as in the rows without privacy; their order among devices
does not matter, so IID and two shards are one.

**A device** (`Device`): a tenth of the devices trains for an epoch and adds its whole update, clipped to c, noise z c. A mean of ten
updates of norm c then carries noise of norm z c √D / 10: for the 2NN's 199 210 parameters and z = 1, forty-five times the longest possible
mean. No clip changes that ratio; only more devices or fewer parameters do.

ε is what somebody pays who sees all fifty models but no cohort, by Rényi orders (`aggregator.privacy.example_level`); δ is 1e-5 for one of
60 000 images and 1e-3 for one of a hundred devices.

Sources: Abadi et al., "Deep Learning with Differential Privacy", arXiv:1607.00133v2; Kairouz, Liu, Steinke, "The Distributed Discrete
Gaussian Mechanism for Federated Learning with Secure Aggregation", arXiv:2102.06387v4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from aggregator.privacy.example_level import example_epsilon
from learning_tables.mnist_digits import CLASSES, DEVICES
from learning_tables.mnist_federation import COHORT, LOCAL_WORK
from learning_tables.mnist_secure_sum import secure_total
from models.architecture import Architecture, initial_parameters
from models.export import isolated
from models.local_training import fit
from models.training_model import TrainingModel
from protocol.privacy.mechanism import PrivacyParameters, decode, encode
from protocol.training import ExamplePrivacy, TrainingSettings

__all__ = ["Device", "Example", "PrivateRun", "learn_by_device", "learn_by_example", "noisy_sum"]

Flat = NDArray[np.float32]
Images = NDArray[np.float32]
Judge = Callable[[TrainingModel, Flat], float]

ONE_EPOCH: Final = structs.replace(LOCAL_WORK, epochs=1)
BITS: Final = 32
_PIECE: Final = 256


@dataclass(frozen=True, kw_only=True)
class Example:
    """Privacy of one image. `multiplier` is z; 0 is the same learning without noise, nothing promised."""

    clip: float
    multiplier: float
    learning_rate: float
    momentum: float = 0.8
    sampling_rate: float = 0.1
    delta: float = 1e-5
    is_summed_securely: bool = True


@dataclass(frozen=True, kw_only=True)
class Device:
    """Privacy of everything a device holds."""

    clip: float
    multiplier: float
    delta: float = 1e-3
    work: TrainingSettings = ONE_EPOCH


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """Accuracy after each round, and ε of all of them together; infinite without noise."""

    curve: Sequence[float]
    epsilon: float


def learn_by_example(
    architecture: Architecture,
    devices: Sequence[tuple[Images, NDArray[np.int64]]],
    settings: Example,
    judge: Judge,
    *,
    rounds: int,
    seed: int,
) -> PrivateRun:
    """Rounds of clipped gradient sums; `seed` starts the network, the operating system draws batches' noise and rounding."""
    model = TrainingModel(isolated.export_training_model(architecture), architecture)
    one_hot = [np.eye(CLASSES, dtype=np.float32)[y] for _, y in devices]
    draw = np.random.default_rng((seed, 4))
    parameters = initial_parameters(architecture, seed)
    velocity = np.zeros(parameters.shape)
    expected = settings.sampling_rate * sum(len(x) for x, _ in devices)
    least, curve = math.inf, []
    for number in range(rounds):
        model.restore(parameters)
        totals = []
        for (x, _), labels in zip(devices, one_hot, strict=True):
            chosen = np.flatnonzero(draw.random(len(x)) < settings.sampling_rate)
            totals.append(_clipped_total(model, x[chosen], labels[chosen], settings.clip, len(parameters)))
        if settings.is_summed_securely and settings.multiplier:
            total, multiplier = noisy_sum(totals, settings, is_checked=number == 0)
        else:
            # Continuous noise at the server: for networks so large that a hundred encodings a round take too long here.
            noise = draw.normal(0.0, settings.multiplier * settings.clip, len(parameters))
            total, multiplier = np.sum(totals, axis=0) + noise, settings.multiplier
        least = min(least, multiplier)
        velocity = settings.momentum * velocity + total / expected
        parameters = (parameters - settings.learning_rate * velocity).astype(np.float32)
        curve.append(judge(model, parameters))
    return PrivateRun(curve=curve, epsilon=_epsilon(least, settings.sampling_rate, rounds, settings.delta))


def learn_by_device(
    architecture: Architecture,
    devices: Sequence[tuple[Images, NDArray[np.int64]]],
    settings: Device,
    judge: Judge,
    *,
    rounds: int,
    seed: int,
) -> PrivateRun:
    """Rounds of clipped whole updates of a Poisson cohort of ten on average."""
    model = TrainingModel(isolated.export_training_model(architecture), architecture)
    draw = np.random.default_rng((seed, 5))
    parameters = initial_parameters(architecture, seed)
    least, curve = math.inf, []
    for _ in range(rounds):
        cohort = np.flatnonzero(draw.random(DEVICES) < COHORT / DEVICES)
        updates = []
        for device in cohort:
            x, y = devices[int(device)]
            fitted = fit(
                model,
                parameters,
                x,
                settings.work,
                rng=draw,
                labels=np.eye(CLASSES, dtype=np.float32)[y],
            )
            updates.append(fitted.parameters - parameters)
        if updates:
            mechanism = PrivacyParameters(
                dimension=len(parameters),
                clip=settings.clip,
                noise_multiplier=settings.multiplier,
                cohort=len(updates),
                bits=BITS,
            )
            least = min(least, mechanism.realised_multiplier)
            total = decode(_added(_encoded(updates, mechanism)), mechanism, survivors=len(updates)) * len(
                updates
            )
            # By the expected cohort: the real one is not to be told.
            parameters = (parameters + total / COHORT).astype(np.float32)
        curve.append(judge(model, parameters))
    return PrivateRun(curve=curve, epsilon=_epsilon(least, COHORT / DEVICES, rounds, settings.delta))


def noisy_sum(
    totals: Sequence[NDArray[np.float64]], settings: Example, *, is_checked: bool
) -> tuple[NDArray[np.float64], float]:
    """The sum over devices with their noises in it, and z as it really is; `is_checked` plays the secure sum too."""
    # No device's sum is longer than one and a half times what its expected batch could add up to, but for one in a million.
    longest = 1.5 * settings.clip * max(settings.sampling_rate * 60_000 / len(totals), 1.0)
    mechanism = PrivacyParameters(
        dimension=len(totals[0]),
        clip=longest,
        noise_multiplier=settings.multiplier * settings.clip / longest,
        cohort=len(totals),
        bits=BITS,
    )
    words = _encoded(totals, mechanism)
    added = _added(words)
    if is_checked and not np.array_equal(secure_total(words), added):
        raise AssertionError("the secure sum of these words is not their sum")
    noise_std = mechanism.local_lattice_std * math.sqrt(len(totals))
    sensitivity = settings.clip * mechanism.scale + 2 * math.sqrt(mechanism.vector_length)
    return decode(added, mechanism, survivors=len(totals)) * len(totals), noise_std / sensitivity


def _encoded(
    vectors: Sequence[NDArray[np.floating]], mechanism: PrivacyParameters
) -> list[NDArray[np.uint32]]:
    return [encode(vector, mechanism, os.urandom) for vector in vectors]


def _added(words: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.asarray(np.sum(words, axis=0, dtype=np.uint32))


def _clipped_total(
    model: TrainingModel, x: Images, labels: Images, clip: float, dimension: int
) -> NDArray[np.float64]:
    total = np.zeros(dimension)
    for at in range(0, len(x), _PIECE):
        total += model.clipped_sum(x[at : at + _PIECE], clip, labels=labels[at : at + _PIECE])[0]
    return total


def _epsilon(multiplier: float, rate: float, rounds: int, delta: float) -> float:
    if not (0 < multiplier < math.inf):
        return math.inf
    event = ExamplePrivacy(clip_norm=1.0, noise_multiplier=multiplier, sampling_rate=rate, steps=rounds)
    return example_epsilon([event], delta)
