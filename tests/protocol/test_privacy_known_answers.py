"""The private sum for fixed randomness, held fast word by word: two builds that differ here do not understand each other.

Rotation is grown from a seed on devices and on the server alike, and every number that follows from the
parameters decides how much noise there is. After a deliberate change write the golden file anew with
``python tests/protocol/test_privacy_known_answers.py`` and look at its diff.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from protocol.privacy.discrete_gaussian import draw_discrete_gaussian
from protocol.privacy.mechanism import decode, encode, round_update
from protocol.privacy.parameters import NoiseKind, PrivacyParameters
from protocol.privacy.randomness import RandomStream
from protocol.privacy.rotation import rotate, unrotate
from protocol.privacy.skellam import draw_skellam

pytestmark = pytest.mark.edge
GOLDEN = Path(__file__).parent / "golden" / "privacy.v1.txt"
SEED = hashlib.sha256(b"rotation").digest()


def fixed_bytes(name: str) -> Callable[[int], bytes]:
    """A source of randomness that gives the same bytes each time it is made."""
    count = 0

    def more(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name} {count}".encode()).digest(size)

    return more


def words(values: object) -> str:
    """The first numbers and a digest of all."""
    array = np.asarray(values).ravel()
    digest = hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()[:16]
    return f"{len(array)} [{' '.join(str(int(value)) for value in array[:6])}] {digest}"


def update_of(dimension: int) -> np.ndarray:
    return np.array([((7 * i) % 11 - 5) / 8 for i in range(dimension)], np.float32)


CASES = [
    PrivacyParameters(
        dimension=dimension,
        clip=clip,
        noise_multiplier=z,
        cohort=cohort,
        bits=bits,
        maximum_dropouts=cohort // 4,
        colluders=1,
        noise=noise,
    )
    for (bits, dimension), noise, (clip, z, cohort) in product(
        ((12, 5), (16, 64), (20, 33), (24, 200)), NoiseKind, ((1.5, 1.0, 4), (0.02, 0.3, 9))
    )
]
DERIVED = (
    "effective_cohort",
    "minimum_survivors",
    "local_std",
    "is_rotated",
    "vector_length",
    "scale",
    "local_lattice_std",
    "norm_bound",
    "realised_multiplier",
)


def golden_lines() -> Iterator[str]:
    for case in CASES:
        told = " ".join(f"{float(getattr(case, name)):.7g}" for name in DERIVED)
        yield f"{case.noise} {case.bits} bits, {case.cohort} devices: {told}"
        for survivors in sorted({case.cohort, case.minimum_survivors, 2}):
            realised = case.realised(survivors)
            yield f"    {survivors} of them: {realised.lattice_std:.7g} {realised.multiplier:.7g} {realised.is_as_planned}"
        total = np.zeros(case.vector_length, np.int64)
        for device in range(case.cohort):
            sent = encode(
                update_of(case.dimension),
                case,
                fixed_bytes(f"device {device}"),
                rotation_seed=SEED,
            )
            if device == 0:
                yield f"    sent: {words(sent)}"
            total += sent
        reduced = (total % 2**case.bits).astype(np.uint32)
        mean = decode(reduced, case, survivors=case.cohort, rotation_seed=SEED)
        yield f"    mean: {' '.join(f'{value:.6g}' for value in mean[:4])}"
        stream = RandomStream.fresh(fixed_bytes("rounding"))
        yield f"    rounded: {words(round_update(update_of(case.dimension), case, stream, rotation_seed=SEED))}"
    for std in (0.3, 1.0, 7.5, 300.0):
        yield f"gaussian {std}: {words(draw_discrete_gaussian(300, std, RandomStream.fresh(fixed_bytes('g'))))}"
    for variance in (0.1, 1.0, 60.0, 1e5):
        yield f"skellam {variance}: {words(draw_skellam(300, variance, RandomStream.fresh(fixed_bytes('s'))))}"
    for length in (1, 5, 8, 100):
        turned = rotate(update_of(length).astype(np.float64), SEED)
        yield f"rotated {length}: {' '.join(f'{value:.6g}' for value in turned[:6])}"
        assert np.allclose(unrotate(turned, SEED, length), update_of(length))


@pytest.mark.slow
def test_the_private_sum_of_fixed_updates_is_the_one_that_was_written_down() -> None:
    assert list(golden_lines()) == GOLDEN.read_text().splitlines()


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()))
