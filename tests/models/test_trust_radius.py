"""The least distance at which a unit sees one window alone, against least-distance programmes that are solved one by one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import nnls

from models import trust_radius
from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from models.errors import InputError
from models.support import FEWEST_WINDOWS
from models.trust_radius import first_layer_inputs, least_isolation
from protocol.manifest import ConvolutionSpec

Floats = NDArray[np.float64]


def autoencoder(features: int, units: int = 4) -> Architecture:
    return Architecture(kind="dense-autoencoder", layers=(features, units, features))


def units_of(architecture: Architecture, flat: NDArray[np.floating]) -> Floats:
    weights, bias = split_parameters(architecture, flat.astype(np.float64))[:2]
    return np.vstack([weights.reshape(-1, len(bias)), bias]).T


def isolated(z: Floats, unit: Floats, window: int) -> tuple[float, Floats]:
    """(distance, moved unit): least |u| with u·g ≥ h for every window's constraint, algorithm LDP by SciPy's NNLS."""
    constraints = -z.copy()
    constraints[window] = z[window]
    bounds = -(constraints @ unit)
    bounds[window] += 1e-7
    system, wanted = np.vstack([constraints.T, bounds]), np.zeros(z.shape[1] + 1)
    wanted[-1] = 1.0
    residual = system @ nnls(system, wanted, maxiter=10_000)[0] - wanted
    if np.linalg.norm(residual) < 1e-9:
        return np.inf, unit
    move = -residual[:-1] / residual[-1]
    return float(np.linalg.norm(move)), unit + move


@pytest.mark.parametrize("seed", range(6))
def test_the_distance_is_the_least_of_one_programme_for_each_unit_and_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    architecture = autoencoder(3 + seed)
    windows, flat = rng.normal(size=(30, 3 + seed)), initial_parameters(architecture, seed)
    found = least_isolation(architecture, flat, windows, seed=0)
    z = first_layer_inputs(architecture, windows, seed=0)
    strong = [unit for unit in units_of(architecture, flat) if (z @ unit > 0).sum() >= FEWEST_WINDOWS]
    assert (found.units, found.weak, found.windows) == (len(strong), 4 - len(strong), 30)
    one_by_one = [isolated(z, unit, i) for unit in strong for i in range(30)]
    distance, moved = min(one_by_one, key=lambda pair: pair[0])
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert (z @ moved > 1e-9).sum() == 1


def test_within_the_radius_no_step_that_was_tried_isolates_a_window() -> None:
    rng = np.random.default_rng(3)
    architecture, windows = autoencoder(6), rng.normal(size=(60, 6))
    flat = initial_parameters(architecture, 3)
    found = least_isolation(architecture, flat, windows, seed=0)
    z = first_layer_inputs(architecture, windows, seed=0)
    for unit in units_of(architecture, flat):
        if (z @ unit > 0).sum() < FEWEST_WINDOWS:
            continue
        moves = rng.normal(size=(2000, 7))
        moves *= 0.999 * found.distance / np.linalg.norm(moves, axis=1, keepdims=True)
        assert ((unit + moves) @ z.T > 0).sum(axis=1).min() != 1


def test_a_window_that_came_twice_is_as_isolated_as_one_that_came_once() -> None:
    rng = np.random.default_rng(1)
    architecture, windows = autoencoder(5), rng.normal(size=(40, 5))
    flat = initial_parameters(architecture, 1)
    once, twice = (
        least_isolation(architecture, flat, rows, seed=0) for rows in (windows, np.repeat(windows, 2, axis=0))
    )
    assert once == twice


def test_a_sample_of_the_windows_errs_to_the_safe_side(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    architecture, windows = autoencoder(5), rng.normal(size=(300, 5))
    flat, shares = initial_parameters(architecture, 2), []
    whole = least_isolation(architecture, flat, windows, seed=0, progress=shares.append)
    monkeypatch.setattr(trust_radius, "MOST_WINDOWS", 60)
    sampled = least_isolation(architecture, flat, windows, seed=0)
    assert sampled.windows == 60
    assert sampled.distance < whole.distance
    assert shares[0] == 0.0
    assert len(shares) == whole.units


def test_a_unit_that_sees_next_to_nothing_is_counted_and_left_to_the_devices() -> None:
    rng = np.random.default_rng(4)
    architecture, windows = autoencoder(4), rng.normal(size=(50, 4))
    parts = split_parameters(architecture, initial_parameters(architecture, 4).copy())
    sound = least_isolation(architecture, join_parameters(architecture, parts), windows, seed=0)
    parts[1][0] = -100.0
    weakened = least_isolation(architecture, join_parameters(architecture, parts), windows, seed=0)
    assert (sound.weak, weakened.weak) == (0, 1)
    assert weakened.distance >= sound.distance > 0.01


def test_of_a_convolution_a_block_of_a_window_is_what_a_unit_must_not_isolate() -> None:
    rng = np.random.default_rng(5)
    architecture = Architecture(
        kind="conv-autoencoder", layers=(2, 3, 2), convolution=ConvolutionSpec(samples=8, kernel=6, stride=2)
    )
    windows, flat = rng.normal(size=(20, 16)), initial_parameters(architecture, 0)
    found = least_isolation(architecture, flat, windows, seed=0)
    layer = architecture.geometry[0]
    assert found.windows == 20 * layer.positions
    z = first_layer_inputs(architecture, windows, seed=0)
    # What a unit reads in the middle of the window: all taps within it.
    first = windows[0].reshape(layer.positions, layer.inputs)[: layer.taps].ravel()
    assert (z[:, :-1] == first).all(axis=1).sum() == 1
    units = units_of(architecture, flat)
    assert 0 < found.distance < np.linalg.norm(units, axis=1).max()


def test_a_model_without_a_hidden_layer_isolates_nobody() -> None:
    architecture = Architecture(kind="dense-autoencoder", layers=(4, 4))
    flat = initial_parameters(architecture, 0)
    found = least_isolation(architecture, flat, np.random.default_rng(0).normal(size=(9, 4)), seed=0)
    assert (found.units, found.distance) == (0, pytest.approx(np.linalg.norm(flat), rel=1e-6))


@pytest.mark.parametrize("windows", [np.ones((9, 4)), np.full((3, 4), np.nan), np.zeros((3, 5))])
def test_windows_that_no_distance_follows_from_are_refused(windows: Floats) -> None:
    with pytest.raises(InputError, match=r"windows"):
        least_isolation(autoencoder(4), initial_parameters(autoencoder(4), 0), windows, seed=0)
