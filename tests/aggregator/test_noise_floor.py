"""Reading a noised sum: what cannot be told from noise counts as nothing."""

from __future__ import annotations

import numpy as np

from aggregator.rounds.noise_floor import FLOOR_STDS, drop_noise_floor
from protocol.questions import assess_layout, fit_layout


class EvenNoise:
    """Implements what `drop_noise_floor` asks of an encoding: noise of standard deviation 0.5 in every entry."""

    def noise_std(self, _name: str) -> float:
        return 0.5


def test_what_cannot_be_told_from_noise_counts_as_nothing() -> None:
    assert FLOOR_STDS == 4.0  # one bin in 30,000 is taken for more than noise when it is not
    layout = assess_layout(tensor_count=1, feature_count=2)
    values = np.tile([1.99, 2.0, -1.0], layout.total)[: layout.total]
    parts = layout.unpack(drop_noise_floor(values, layout, EvenNoise()))  # type: ignore[arg-type] # a stand-in
    before = layout.unpack(values)
    histograms = {
        "candidate_scores",
        "champion_scores",
        "candidate_probe_scores",
        "champion_probe_scores",
        "threshold_votes",
        "range_low",
        "range_high",
        "feature_counts",
    }
    not_negative = {"candidate_loss", "champion_loss", "feature_squares"}
    for name, found in parts.items():
        if name in histograms:
            assert np.array_equal(found, np.where(before[name] == 2.0, 2.0, 0.0)), name
        elif name in not_negative:
            assert np.array_equal(found, np.maximum(before[name], 0.0)), name
        else:
            assert np.array_equal(found, before[name]), name
    fit = fit_layout(3)
    kept = fit.unpack(drop_noise_floor(np.full(fit.total, -1.0), fit, EvenNoise()))  # type: ignore[arg-type]
    assert kept["update"].tolist() == [-1.0] * 3
