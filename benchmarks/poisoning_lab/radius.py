"""How far a model may be moved: what the narrowest unit then sees, what honest devices still learn, and what poisoners can do.

The narrowest unit is searched for: from each first-layer unit, steps down the number of windows that it fires for, within the radius.
That is an upper bound; the least distance at which a unit sees one window alone is exact (`models.trust_radius`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import split_parameters
from models.trust_radius import first_layer_inputs
from poisoning_lab.attacks import ATTACKS
from poisoning_lab.campaign import ALL, Poisoned, play, poisoners_of
from poisoning_lab.figures import network_quality
from poisoning_lab.fleets import Works
from protocol.training import TrainingSettings

__all__ = ["run_radius"]

Float = NDArray[np.float64]

SHARES: Final = (0.125, 0.25, 0.5, 0.7, 0.9, 1.05)
"""Of the least distance."""

STEPS: Final = 400


def run_radius(works: Works, seeds: int) -> Iterator[dict[str, object]]:
    """A line for each seed and share of the distance: windows of the narrowest unit; AP and recall clean and under the longest blinding."""
    attack = next(attack for attack in ATTACKS if attack.name == "blind, to the limit")
    for seed in range(seeds):
        release = works.release(seed)
        distance = release.isolation.distance
        everybody = np.concatenate([machine.healthy for machine in works.machines])
        z = first_layer_inputs(works.architecture, everybody, seed=seed)
        weights, bias = split_parameters(works.architecture, release.parameters.astype(np.float64))[:2]
        units = np.vstack([weights, bias]).T
        for share in SHARES:
            radius = share * distance
            line: dict[str, object] = {
                "set": works.name,
                "seed": seed,
                "distance": round(distance, 3),
                "radius": round(radius, 3),
                "share": share,
                "narrowest_unit_sees": min(_narrowest(z, unit, radius) for unit in units),
                "of_windows": len(z),
            }
            profile = TrainingSettings(epochs=5).settled(radius)
            for devices, poisoners in ((12, 0), (12, 1), (30, 0), (30, 10)):
                poisoned = Poisoned(
                    attack=attack if poisoners else None,
                    devices=poisoners_of(devices, poisoners, seed) if poisoners else frozenset(),
                )
                found = play(
                    works, works.fleet(devices, seed), release, poisoned, ALL, seed=seed, profile=profile
                )
                ap, recall, _ = network_quality(works, found.parameters, found.threshold)
                line[f"ap_{poisoners}_of_{devices}"] = round(ap, 4)
                line[f"recall_{poisoners}_of_{devices}"] = round(recall, 3)
            yield line


def _narrowest(z: Float, unit: Float, radius: float) -> int:
    """Fewest windows of z (n, inputs + 1), above none, that a unit was found to fire for within the radius."""
    fewest = int((z @ unit > 0).sum())
    moved = unit.copy()
    for step in range(STEPS):
        fires = z @ moved > 0
        if not fires.any():
            break
        down = z[fires].sum(axis=0)
        moved = moved - 0.05 * radius * (1 - step / STEPS) * down / np.linalg.norm(down)
        away = moved - unit
        moved = unit + away * min(1.0, radius / max(float(np.linalg.norm(away)), 1e-12))
        count = int((z @ moved > 0).sum())
        fewest = min(fewest, count) if count else fewest
    return fewest
