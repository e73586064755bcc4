"""Distributed differential privacy in two calls: `encode` on a device, `decode` on the sum.

    device    update ─► clip ─► (rotate) ─► times s ─► round within Δ2 ─► + integer noise ─► mod 2^b ─► secure sum
    server    sum mod 2^b ─► centre ─► divide by s ─► (unrotate) ─► divide by survivors

No device's vector is private by itself: only the sum carries enough noise, which is why it must travel under masks
(`protocol.secure_sum`). Nothing here counts ε; `PrivacyParameters.realised` is what an accountant needs.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", arXiv:2102.06387v4, Algorithms 1 and 2; Skellam noise after arXiv:2110.04995v1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.clipping import clip_to_ball
from protocol.privacy.discrete_gaussian import draw_discrete_gaussian
from protocol.privacy.errors import SumError, UnderNoisedError, UpdateError
from protocol.privacy.parameters import NoiseKind, PrivacyParameters
from protocol.privacy.randomness import RandomBytes, RandomStream
from protocol.privacy.rotation import rotate, unrotate
from protocol.privacy.rounding import round_within
from protocol.privacy.skellam import draw_skellam

__all__ = ["PrivacyParameters", "add_missing_noise", "decode", "encode", "round_update"]


def encode(
    update: NDArray[np.floating],
    parameters: PrivacyParameters,
    random_bytes: RandomBytes,
    *,
    rotation_seed: bytes = b"",
) -> NDArray[np.uint32]:
    """One device's contribution to the sum, shape (parameters.vector_length,), words in [0, 2^bits).

    Args:
        update: any shape with `parameters.dimension` entries, finite.
        parameters: agreed by all.
        random_bytes: `os.urandom` in production.
        rotation_seed: public and equal for all devices of the round; best new each round.

    Raises:
        UpdateError: the update is not finite or has another number of entries.
    """
    stream = RandomStream.fresh(random_bytes)
    steps = round_update(update, parameters, stream, rotation_seed=rotation_seed)
    steps += _noise(parameters, stream)
    return (steps & _mask(parameters)).astype(np.uint32)


def round_update(
    update: NDArray[np.floating],
    parameters: PrivacyParameters,
    stream: RandomStream,
    *,
    rotation_seed: bytes = b"",
) -> NDArray[np.int64]:
    """The update in lattice steps before noise, shape (vector_length,); its L2 norm is at most `parameters.norm_bound`.

    Raises:
        UpdateError: as `encode`.
    """
    if update.size != parameters.dimension:
        raise UpdateError(f"an update has {parameters.dimension} entries, got {update.size}")
    x = clip_to_ball(update, parameters.clip)
    if parameters.is_rotated:
        x = rotate(x, rotation_seed)
    return round_within(x * parameters.scale, parameters.norm_bound, stream)


def add_missing_noise(
    total: NDArray[np.unsignedinteger],
    parameters: PrivacyParameters,
    random_bytes: RandomBytes,
    *,
    survivors: int,
) -> NDArray[np.uint32]:
    """The sum with as much noise as if all of `parameters.cohort` were in it, so that nobody can tell from it how many are.

    Whoever adds it knows it: against the server it protects nobody.

    Raises:
        SumError: the sum has another length or words.
    """
    stream, words = RandomStream.fresh(random_bytes), _words(total, parameters)
    for _ in range(parameters.cohort - survivors):
        words += _noise(parameters, stream)
    return (words & _mask(parameters)).astype(np.uint32)


def decode(
    total: NDArray[np.unsignedinteger],
    parameters: PrivacyParameters,
    *,
    survivors: int,
    rotation_seed: bytes = b"",
    accept_less_noise: bool = False,
) -> NDArray[np.float64]:
    """The survivors' mean update, shape (dimension,), from the sum of their encodings mod 2^bits.

    Args:
        total: shape (vector_length,), words in [0, 2^bits).
        parameters: those of `encode`.
        survivors: devices whose encoding is in the sum.
        rotation_seed: that of `encode`.
        accept_less_noise: read a sum with fewer survivors than planned. The caller must then account
            `parameters.realised(survivors)` and never the planned noise.

    Raises:
        SumError: the sum has another length or words.
        UnderNoisedError: fewer survivors than planned and not `accept_less_noise`: the round is void.
        ParameterError: more survivors than devices, or so few that nobody honest is among them.
    """
    realised = parameters.realised(survivors)
    if not realised.is_as_planned and not accept_less_noise:
        _require_enough(parameters, survivors)
    half = np.int64(1) << np.int64(parameters.bits - 1)
    centred = ((_words(total, parameters) + half) & _mask(parameters)) - half
    mean: NDArray[np.float64] = centred / (parameters.scale * survivors)
    return unrotate(mean, rotation_seed, parameters.dimension) if parameters.is_rotated else mean


def _noise(parameters: PrivacyParameters, stream: RandomStream) -> NDArray[np.int64]:
    length, std = parameters.vector_length, parameters.local_lattice_std
    if parameters.noise is NoiseKind.SKELLAM:
        return draw_skellam(length, std * std, stream)
    return draw_discrete_gaussian(length, std, stream)


def _require_enough(parameters: PrivacyParameters, survivors: int) -> None:
    if survivors < parameters.minimum_survivors:
        raise UnderNoisedError(
            f"{survivors} of {parameters.cohort} devices are in the sum, the noise was planned for at least "
            f"{parameters.minimum_survivors}: the round is void; repeat it with fresh secrets, or plan for "
            f"maximum_dropouts of at least {parameters.cohort - survivors}"
        )


def _words(total: NDArray[np.unsignedinteger], parameters: PrivacyParameters) -> NDArray[np.int64]:
    if total.shape != (parameters.vector_length,):
        raise SumError(f"a sum has shape ({parameters.vector_length},), got {total.shape}")
    if total.dtype.kind != "u" or int(total.max()) >> parameters.bits:
        raise SumError(
            f"a sum holds unsigned words below 2^{parameters.bits}, got {total.dtype} up to {total.max()}"
        )
    return total.astype(np.int64)


def _mask(parameters: PrivacyParameters) -> np.int64:
    return np.int64((1 << parameters.bits) - 1)
