"""Other people's detectors, each fitted on each device by itself: what somebody has who knows no fleet.

    k-means, PCA, CNN      TSB-AD 1.5 (Liu, Paparrizos, "The Elephant in the Room", NeurIPS 2024, whose leaderboard they head)
    HBOS, isolation forest pyod 3.6.7 (Zhao et al., "PyOD", JMLR 20, 2019)

Hyperparameters are those that TSB-AD's authors recommend for series of several columns. Their k-means sees windows without their level; the
same over single rows, with it, stands beside it. A window of theirs takes at most a fifth of a device's healthy
rows, since some devices have but thirty. All get rows in the device's own scale, as ours do, and the threshold of the trivial rows
(`methods.own_quantile_judges`): these packages promise nothing. Where a window of theirs is centred it sees rows that a device would
not have yet. Before each recording its first row is repeated, so that all rows get a score.

Runs in an environment of its own (`make bench-peers`): nothing here is imported by ours, and TSB-AD wants an older NumPy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from TSB_AD.evaluation.basic_metrics import generate_curve
from TSB_AD.models.CNN import CNN
from TSB_AD.models.KMeansAD import KMeansAD
from TSB_AD.models.PCA import PCA

from detection_tables.devices import Device
from detection_tables.figures import Figure
from detection_tables.methods import Method, Promised, Score, own_quantile_judges
from detection_tables.volume import default_buffer, volume_under_surface
from models.standardiser import fit_standardiser

__all__ = ["PEERS", "compare_volumes"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]
Fit = Callable[[Floats, int, int], Callable[[Floats], Floats]]
"""(healthy rows in own scale, window, seed) → scores (n,) of rows (n, F)."""

PIECE_ROWS: Final = 4096
"""Scored at a time: PCA makes windows × columns numbers of each row."""
SHORTEST_WINDOW: Final = 10
"""Of fewer rows the CNN's pooling leaves nothing."""


def _fit_k_means(rows: Floats, window: int, seed: int) -> Callable[[Floats], Floats]:
    model = KMeansAD(k=10, window_size=window, stride=1)
    model.model.set_params(random_state=seed)
    return model.fit(rows).predict  # type: ignore[no-any-return] # untyped package


def _fit_row_k_means(rows: Floats, _: int, seed: int) -> Callable[[Floats], Floats]:
    model = KMeansAD(k=10, window_size=1, stride=1, normalize=False)
    model.model.set_params(random_state=seed)
    return model.fit(rows).predict  # type: ignore[no-any-return] # untyped package


def _fit_components(rows: Floats, window: int, _: int) -> Callable[[Floats], Floats]:
    # What it prunes in fitting it does not prune in scoring; columns that never moved have no weight in a component either way.
    model = PCA(slidingWindow=window, n_components=0.25, zero_pruning=False)
    model.fit(rows)
    return model.decision_function  # type: ignore[no-any-return] # untyped package


def _fit_network(rows: Floats, window: int, seed: int) -> Callable[[Floats], Floats]:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = CNN(window_size=window, num_channel=[32, 32, 40], feats=rows.shape[1])
    model.fit(rows)
    return model.decision_function  # type: ignore[no-any-return] # untyped package


def _fit_histograms(rows: Floats, _: int, __: int) -> Callable[[Floats], Floats]:
    return HBOS(n_bins=30, tol=0.5).fit(rows).decision_function  # type: ignore[no-any-return] # untyped package


def _fit_forest(rows: Floats, _: int, seed: int) -> Callable[[Floats], Floats]:
    model = IForest(n_estimators=25, max_features=0.8, random_state=seed).fit(rows)
    return model.decision_function  # type: ignore[no-any-return] # untyped package


def _score(device: Device, fit: Fit, longest: int, seed: int) -> Score:
    scale = fit_standardiser(device.healthy)
    window = max(min(longest, len(device.healthy) // 5), min(longest, SHORTEST_WINDOW))

    def prepared(rows: Rows) -> Floats:
        return np.nan_to_num(scale.apply(rows).astype(np.float64))

    with _silence():
        decide = fit(prepared(device.healthy), window, seed)

    def score(rows: Rows, starts: Sequence[int]) -> Floats:
        z = prepared(rows)
        with _silence():
            return np.concatenate(
                [_in_pieces(decide, z[begin:end], window) for begin, end in pairwise([*starts, len(z)])]
            )

    return score


def _in_pieces(decide: Callable[[Floats], Floats], rows: Floats, window: int) -> Floats:
    padded = np.concatenate([np.repeat(rows[:1], window, axis=0), rows, np.repeat(rows[-1:], window, axis=0)])
    pieces = []
    for first in range(0, len(rows), PIECE_ROWS):
        length = min(PIECE_ROWS, len(rows) - first)
        # A window on either side: a recording's own end is not padded, its pieces' ends are.
        last = len(rows) + window if first + length == len(rows) else first + length + 2 * window
        pieces.append(np.ravel(decide(padded[first:last]))[window : window + length])
    return np.concatenate(pieces)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What these packages print belongs to no figure."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123 - os.devnull is no path of ours
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _method(name: str, fit: Fit, longest: int, *, is_random: bool) -> Method:
    def fit_all(devices: Sequence[Device], seed: int) -> Promised:
        return own_quantile_judges(devices, [_score(device, fit, longest, seed) for device in devices])

    return Method(name=f"peer: {name}", fit=fit_all, is_random=is_random)


PEERS: Final = (
    _method("HBOS (pyod)", _fit_histograms, 1, is_random=False),
    _method("isolation forest (pyod)", _fit_forest, 1, is_random=True),
    _method("k-means of rows (TSB-AD)", _fit_row_k_means, 1, is_random=True),
    _method("k-means of windows (TSB-AD)", _fit_k_means, 40, is_random=True),
    _method("PCA (TSB-AD)", _fit_components, 100, is_random=False),
    _method("CNN (TSB-AD)", _fit_network, 50, is_random=True),
)


def compare_volumes(name: str, devices: Sequence[Device]) -> Figure:
    """Our VUS-PR beside that of its authors, on the device with the shortest test that can be ranked."""
    device = min((d for d in devices if d.has_both), key=lambda d: len(d.test))
    scores: Any = _score(device, _fit_histograms, 1, 0)(device.test, (0,))
    buffer = default_buffer(len(scores))
    ours = volume_under_surface(device.labels, scores, buffer)
    theirs = float(generate_curve(device.labels.astype(int), scores, buffer)[-1])
    details = {"device": device.name, "bound": theirs, "ratio": ours / theirs}
    return Figure(set=name, method="ours", metric="VUS-PR beside TSB-AD's", value=ours, details=details)
