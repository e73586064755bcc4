"""What the people of a simulated world ask of the services: the first release, and rollouts with a health gate.

The same bodies a person would write by hand; docs/fleet.md explains each key.
"""

from __future__ import annotations

from typing import Final

from protocol.manifest import FeatureSpec
from simulations.scenario import Scenario

FIRST_EPOCHS: Final = 60
"""Central epochs of version 1: more of them fit the reference machines closer and every other machine worse."""

GATES: Final[dict[str, object]] = {
    "metrics": ["anomaly_rate", "sight", "restarts"],
    "baseline_s": 10.0,
    "warm_up_s": 0.0,
    "on_not_seen": "continue",
    "hold_out": 0,
}
"""A story lasts a minute: gates say how little a dozen devices can show in it, and only its limit stops anything."""

LEAST_MESSAGES: Final = 4.5
"""Health messages that fit into a soak: of a device that has said nothing yet nothing is known, and that pauses a rollout."""

__all__ = ["first_release_spec", "rollout_body", "rollout_groups"]


def rollout_groups(scenario: Scenario) -> list[dict[str, object]]:
    """Canary, quarter, all, with the scenario's soak time, or as long as it takes to hear each device a few times."""
    settings = scenario.rollout
    soak_s = max(settings.soak_s, LEAST_MESSAGES * scenario.health_every_s)
    return [
        {"name": "canary", "percentage": 100 * settings.canary_pct, "soak_s": soak_s},
        {"name": "quarter", "percentage": 100 * settings.quarter_pct, "soak_s": soak_s},
        {"name": "all", "percentage": 100, "soak_s": soak_s},
    ]


def rollout_body(scenario: Scenario, groups: list[dict[str, object]]) -> dict[str, object]:
    """The body of ``POST /v1/rollouts`` but for its name and release, with the scenario's health gate."""
    limit = scenario.rollout.maximum_anomaly_rate
    return {
        "target_query": f"family=={scenario.family.name}",
        "groups": groups,
        "success": {"threshold_pct": 95},
        "limits": [{"metric": "anomaly_rate", "op": "<=", "value": limit}],
        "gates": GATES,
        "abort": [{"failure_type": "FAILED", "min_executed": 1, "threshold_pct": 50, "action": "rollback"}],
    }


def first_release_spec(
    scenario: Scenario, features: FeatureSpec, shortest_recording: int
) -> dict[str, object]:
    """family.toml for ``fedge-aggregator initial-release``; two thirds of a short recording commission its machine."""
    width = len(features.names)
    rate = {"sample_rate_hz": features.sample_rate_hz} if features.sample_rate_hz else {}
    return {
        "family": scenario.family.name,
        "model": {"kind": "dense-autoencoder", "layers": [width, *scenario.hidden, width]},
        "features": {
            "kind": features.kind,
            "names": list(features.names),
            "window_samples": features.window_samples,
            "channels": features.channels,
            **rate,
        },
        "commissioning_rows": min(scenario.detection.commissioning_windows, shortest_recording * 2 // 3),
        "training": {"epochs": FIRST_EPOCHS, "learning_rate": scenario.family.training.learning_rate},
        "seed": scenario.seed,
    }
