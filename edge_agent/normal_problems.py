"""What a person should know of a device's normal: a sentence each, or an empty one."""

from __future__ import annotations

from edge_agent.detection_memory import Remembered
from edge_agent.fitting import RunningRelease
from edge_agent.kept_promise import KeptPromise
from edge_agent.unknown_regimes import told_since
from models.thresholds import PersonalThreshold

__all__ = ["broken_promise", "misfit", "unknown_regime"]


def misfit(release: RunningRelease, known: Remembered, threshold: PersonalThreshold | None) -> str:
    """Were most of this machine's windows anomalies to the release when it was committed?"""
    if threshold is None or known.bundle_sha256 != release.bundle_sha256:
        return ""
    if 2 * threshold.fitted_on >= known.scored:
        return ""
    name = release.manifest.release
    return f"{name} does not fit this machine: {threshold.fitted_on} of {known.scored} windows usable"


def unknown_regime(known: Remembered, set_aside: int) -> str:
    """Said of a machine that has come to rest where it was not learnt, and of which so many windows are `set_aside`."""
    first_s = min((one.since_s for one in known.unknown_regimes), default=0.0)
    return (
        f"unknown regime since {told_since(known.drift_since_s or first_s)}: {set_aside} windows wait for a person to call them"
        " normal, or to mend the machine"
    )


def broken_promise(promise: KeptPromise | None, *, is_investigating: bool) -> str:
    """Should a person see to the promise?"""
    if promise is None:
        return ""
    if not promise.is_kept:
        return f"more alarms than promised ({promise.came}); if they were false, fedge-agent recommission --config agent.toml"
    if promise.broken:
        return (
            f"{promise.broken} promises about false alarms were not kept before this device learnt anew (since then {promise.came}); if"
            " they were false, fedge-agent recommission --config agent.toml"
        )
    if promise.horizon_left == 0 and is_investigating:
        return "what was promised of false alarms held until the drift: mend the machine, or call it normal"
    return ""
