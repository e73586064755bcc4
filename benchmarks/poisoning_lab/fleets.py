"""Machines as a fleet under attack: whose windows devices learn from, what the first release was made of, and how a detector is judged.

Five machines, drawn by the seed, are the issuer's reference: of them the first release is made, as `fedge-aggregator initial-release`
makes it. A fleet of 12 are the others; 17 and 30 are all of them, in 30 the longest recordings are two devices each, of every second
window. Each machine has its own scale, of its own healthy windows, and is judged on its own life: windows that must be quiet
against those of its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from detection_tables.devices import Device
from detection_tables.named_sets import NAMED_SETS
from numpy.typing import NDArray

from aggregator.central_training import TrainingSection, train_centrally
from models.architecture import Architecture
from models.export.isolated import export_training_model
from models.local_training import assess
from models.standardiser import Standardiser, fit_standardiser
from models.training_model import TrainingModel
from models.trust_radius import Isolation, least_isolation
from protocol.grids import SCORE_GRID
from protocol.questions import HOLD_OUT_EVERY

__all__ = ["MARGIN", "QUANTILE", "Machine", "Member", "Release", "Works", "load_works"]

Rows = NDArray[np.float32]
Floats = NDArray[np.floating]

REFERENCES: Final = 5
"""Machines that the issuer had before there was a fleet."""

QUANTILE: Final = 0.999
MARGIN: Final = 1.1
FEWEST_WINDOWS: Final = 32
"""Fewest windows of a device, the default floor of its owner: no recording is halved below it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine:
    """A machine under its own scale: healthy rows to learn from, then rows that must be quiet, and those of its end, (n, F) each."""

    name: str
    scale: Standardiser
    healthy: Rows
    quiet: Rows
    end: Rows

    @classmethod
    def of(cls, device: Device) -> Machine:
        """A device of a named set."""
        scale = fit_standardiser(device.healthy)
        return cls(
            name=device.name,
            scale=scale,
            healthy=scale.apply(device.healthy),
            quiet=scale.apply(device.test[~device.labels]),
            end=scale.apply(device.test[device.labels]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A device of the fleet: its windows (n, F), and the machine that they come from."""

    rows: Rows
    machine: Machine


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """The release that devices run: its parameters (P,), its threshold, and how far the issuer found that they may be moved."""

    parameters: Rows
    threshold: float
    isolation: Isolation


class Works:
    """All machines of a set, and the model that they share. What is made of them depends on a seed.

    Args:
        name: of the set.
        machines: all there are.
        model: the training graph, on LiteRT.
    """

    def __init__(self, name: str, machines: Sequence[Machine], architecture: Architecture) -> None:
        self.name, self.machines, self.architecture = name, tuple(machines), architecture

    @cached_property
    def model(self) -> TrainingModel:
        """What every device trains with, one after the other."""
        return TrainingModel(export_training_model(self.architecture), self.architecture)

    def references(self, seed: int) -> list[Machine]:
        """The issuer's."""
        order = np.random.default_rng(seed).permutation(len(self.machines))
        return [self.machines[i] for i in order[:REFERENCES]]

    def fleet(self, devices: int, seed: int) -> list[Member]:
        """So many devices.

        Raises:
            ValueError: the recordings are too short for as many.
        """
        references = self.references(seed)
        left = [machine for machine in self.machines if machine not in references]
        chosen = left if devices <= len(left) else list(self.machines)
        members = [Member(rows=machine.healthy, machine=machine) for machine in chosen][:devices]
        while len(members) < devices:
            longest = max(members, key=lambda member: len(member.rows))
            if len(longest.rows) < 2 * FEWEST_WINDOWS:
                raise ValueError(
                    f"{self.name} makes {len(members)} devices of {FEWEST_WINDOWS} windows, not {devices}"
                )
            members.remove(longest)
            members += [Member(rows=longest.rows[at::2], machine=longest.machine) for at in (0, 1)]
        return members

    def release(self, seed: int) -> Release:
        """The first release, of the reference machines."""
        machines = [machine.healthy for machine in self.references(seed)]
        rows = np.concatenate(machines)
        is_held_out = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        trained = train_centrally(
            self.model,
            rows[~is_held_out],
            rows[is_held_out],
            TrainingSection(),
            seed=seed,
            progress=lambda _stage, _share: None,
        )
        w = trained.parameters
        votes = sum(assess(self.model, w, w, x, quantile=QUANTILE)["threshold_votes"] for x in machines)
        return Release(
            parameters=w,
            threshold=SCORE_GRID.quantile(votes, 0.75) * MARGIN,
            isolation=least_isolation(self.architecture, w, rows, seed=seed),
        )


def load_works(name: str, data: Path) -> Works:
    """A set by name, from FEDGE_DATA."""
    machines = [Machine.of(device) for device in NAMED_SETS[name](data / name)]
    features = machines[0].healthy.shape[1]
    hidden = max(features // 3 + 1, 2)
    layers = (features, hidden, max(hidden // 2, 1), hidden, features)
    return Works(name, machines, Architecture(kind="dense-autoencoder", layers=layers))
