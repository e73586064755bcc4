"""Which parts an answer has whose sums become a fleet's prior, and how long each is (`models.detection` says what they mean).

Of F features: ``evaluate.scale`` has 4·F + 1 entries, ``evaluate.covariance`` F·(F + 1) + 4, ``evaluate.curve`` 1,893.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import QuestionError
from protocol.grids import AGES, LEVELS, SQUARED

__all__ = ["MOST_MIXED_FEATURES", "covariance_sizes", "curve_sizes", "scale_sizes"]

MOST_MIXED_FEATURES: Final = 128
"""Features of which it may be asked how they vary together: 17 thousand numbers, 66 kB; the square of more outgrows a device and its
road."""


def scale_sizes(feature_count: int) -> dict[str, int]:
    """Of ``evaluate.scale``: the fields of `models.detection.scale.ScaleSums`, sensor by sensor."""
    parts = ("scale_devices", "scale_logs", "scale_squares", "scale_uncertainty")
    return {"examples": 1, **dict.fromkeys(parts, feature_count)}


def covariance_sizes(feature_count: int) -> dict[str, int]:
    """Of ``evaluate.covariance``: `models.detection.spread.SpreadSums`, matrices as upper triangles, row by row.

    Raises:
        QuestionError: more than `MOST_MIXED_FEATURES` features.
    """
    if feature_count > MOST_MIXED_FEATURES:
        raise QuestionError(
            f"how {feature_count} features vary together is not asked; at most {MOST_MIXED_FEATURES} are"
        )
    triangle = feature_count * (feature_count + 1) // 2
    return {
        "examples": 1,
        "spread_devices": 1,
        "correlation": triangle,
        "wander": triangle,
        "spread_squares": 1,
        "spread_error": 1,
    }


def curve_sizes() -> dict[str, int]:
    """Of ``evaluate.curve``: `models.detection.openings.OpeningsSums` for each of `AGES`; zeros for ages not reached."""
    sizes = {"examples": 1}
    for age in AGES:
        sizes |= {f"age_devices_{age}": 1, f"age_windows_{age}": 1}
        sizes |= dict.fromkeys((f"openings_{age}", f"in_alarm_{age}"), len(LEVELS))
        sizes[f"openings_squares_{age}"] = len(LEVELS[::SQUARED])
    return sizes
