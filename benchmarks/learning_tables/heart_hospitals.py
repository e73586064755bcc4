"""Four hospitals and 740 patients: the heart data as FLamby reads and splits them, so that its figures may stand beside ours.

Three columns that most hospitals left empty are dropped, then every patient with a gap; kind of chest pain and resting ECG
become indicators; disease is any degree above none. Two thirds of each hospital train, one third tests, the shares of the labels
kept where both occur. Seed 0 is FLamby's own split (its random state 43), every further seed the next random state.

Source: Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare
Settings", arXiv:2210.04620v3, Fed-Heart-Disease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from models.standardiser import Standardiser

__all__ = ["HOSPITALS", "Hospital", "Patients", "fold_of", "load_hospitals"]

HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungarian",
    "Switzerland": "switzerland",
    "Long Beach": "va",
}
COLUMNS = 14
DROPPED = (10, 11, 12)
CHEST_PAIN, RESTING_ECG = 2, 6
FLAMBY_STATE = 43
TRAIN_SHARE = 0.66


@dataclass(frozen=True, kw_only=True, eq=False)
class Patients:
    """Rows x (n, 13) and one-hot labels (n, 2): no disease, disease."""

    x: NDArray[np.float32]
    labels: NDArray[np.float32]

    def take(self, rows: NDArray[np.intp]) -> Patients:
        """Those rows."""
        return Patients(x=self.x[rows], labels=self.labels[rows])

    def scaled(self, scale: Standardiser) -> Patients:
        """The same patients under a scale."""
        return Patients(x=scale.apply(self.x), labels=self.labels)

    @property
    def counts(self) -> NDArray[np.float64]:
        """Patients per class (2,)."""
        return self.labels.sum(axis=0, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hospital:
    """One hospital under one seed's split; features are raw."""

    name: str
    train: Patients
    test: Patients


def load_hospitals(folder: Path, seed: int) -> list[Hospital]:
    """The four hospitals, split by this seed."""
    hospitals = []
    for name, stem in HOSPITALS.items():
        patients = _read_patients(folder / f"processed.{stem}.data")
        disease = patients.labels[:, 1]
        can_stratify = patients.counts.min() > 2
        train, test = train_test_split(
            np.arange(len(disease)),
            train_size=TRAIN_SHARE,
            test_size=1.0 - TRAIN_SHARE,
            random_state=FLAMBY_STATE + seed,
            stratify=disease if can_stratify else None,
        )
        hospitals.append(Hospital(name=name, train=patients.take(train), test=patients.take(test)))
    return hospitals


def fold_of(hospitals: Sequence[Hospital], fold: int, folds: int, seed: int) -> list[Hospital]:
    """The training patients alone, one part of `folds` of each hospital taking the place of the test."""
    inner = []
    for hospital in hospitals:
        order = np.random.default_rng([seed, 1]).permutation(len(hospital.train.x))
        left_out = np.sort(order[fold::folds])
        kept = np.setdiff1d(order, left_out)
        inner.append(
            Hospital(name=hospital.name, train=hospital.train.take(kept), test=hospital.train.take(left_out))
        )
    return inner


def _read_patients(path: Path) -> Patients:
    lines = [line.split(",") for line in path.read_text(encoding="ascii").split() if line]
    kept = [
        [value for column, value in enumerate(line) if column not in DROPPED]
        for line in lines
        if len(line) == COLUMNS
    ]
    table = np.array([[float(value) for value in line] for line in kept if "?" not in line])
    indicators = [table[:, CHEST_PAIN] == kind for kind in (2, 3, 4)]
    indicators += [table[:, RESTING_ECG] == kind for kind in (1, 2)]
    numbers = np.delete(table[:, :-1], (CHEST_PAIN, RESTING_ECG), axis=1)
    disease = table[:, -1] > 0
    return Patients(
        x=np.column_stack([numbers, *indicators]).astype(np.float32),
        labels=np.stack([~disease, disease], axis=1).astype(np.float32),
    )
