"""What devices reported, and what people said of it, as the API shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from fleet.storage.verdict_tables import Verdict

__all__ = [
    "AnomalyView",
    "AnomalyWithWindow",
    "DriftSummary",
    "DriftView",
    "EndView",
    "PrecisionSummary",
    "PrecisionView",
    "ReportView",
    "RowView",
    "VerdictView",
    "VerdictsView",
]


class RowView(BaseModel):
    """A row that is listed by its number, as the API shows it."""

    model_config = ConfigDict(from_attributes=True)
    id: int


class ReportView(RowView):
    """What every report of a device says. `sent_at` is the device's clock, `received_at` ours."""

    device: str
    boot_id: str
    sequence: int
    sent_at: float
    received_at: float
    release: str


class EndView(BaseModel):
    """How an anomaly ended, and how long it was: `lasted_s` and `observed_at_s` are on the machine's own clock.

    It took `windows` windows, of which `windows_over` were over the threshold; the highest score was `peak_score`.
    `reason` is calm (the scores stayed below the threshold) or release (another model judges now). `sent_at` is the
    device's clock, `received_at` ours.
    """

    model_config = ConfigDict(from_attributes=True)
    observed_at_s: float
    lasted_s: float
    windows: int
    windows_over: int
    peak_score: float
    reason: str
    sent_at: float
    received_at: float


class AnomalyView(ReportView):
    """An anomaly. `sent_at` is the device's clock, `received_at` ours, `observed_at_s` the machine's.

    `end` is null while it lasts, or until the end has arrived. `episode` is the device's name for it; where that is null
    too, the agent is one that never tells of an end. `window_withheld`: the owner of the device lets no raw window leave
    it, and nobody can change that from here.
    """

    episode: str | None
    end: EndView | None
    score: float
    threshold: float
    window_index: int
    windows_over: int
    observed_at_s: float
    contributors: list[str]
    window_shape: list[int]
    window_withheld: bool | None


class AnomalyWithWindow(AnomalyView):
    """An anomaly with its raw window: base64 of little-endian float32 of `window_shape`, or null if it came without."""

    window: str | None


class DriftView(ReportView):
    """A drift report; `drift_score` ≥ 1 means a change.

    `state` is drifted, settled (elsewhere), changed (further), recovered, or accepted (as normal, and learnt); `severity` is how far the sensor that moved most
    lies from its reference, in standard deviations; `shapes` are PSI and KS of the sensors that differ most, each with what
    chance alone gives.
    """

    state: str
    drift_score: float
    observed_at_s: float
    windows: int
    findings: list[dict[str, Any]]
    severity: float | None
    shapes: list[dict[str, Any]] | None


class DriftSummary(BaseModel):
    """How much of a family has drifted now. `devices` counts enrolled devices that were ever heard.

    `drift_since` is when each device that is not back drifted (Unix s): of those in drift now, and of those that are not any
    more because a person called normal where they are.
    `precision_drifted_since` (Unix s, or null) is the other kind of drift: people's verdicts on the alarms of the release
    judged last say that fewer of them are true than before (`GET /v1/precision/summary`).
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "family": "rotating-machine",
                "devices": 12,
                "drifted": 8,
                "share": 0.667,
                "since": 1767225600.0,
                "drifted_devices": ["press-1", "press-7"],
                "drift_since": {"press-1": 1767225600.0, "press-4": 1767225720.0, "press-7": 1767225660.0},
                "precision_drifted_since": None,
            }
        }
    )
    family: str
    devices: int
    drifted: int
    share: float
    since: float | None
    drifted_devices: list[str]
    drift_since: dict[str, float]
    precision_drifted_since: float | None


class VerdictView(BaseModel):
    """The present verdict on an anomaly; `author` is the operator token's name, times are Unix seconds."""

    model_config = ConfigDict(from_attributes=True)
    anomaly: int
    family: str
    release: str
    verdict: Verdict
    note: str
    author: str
    given_at: float
    first_given_at: float


class VerdictsView(BaseModel):
    """Of which anomalies that is said now (null: no longer anything), and which were left out: they are not there, or had none."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"verdict": "false_alarm", "anomalies": [4711, 4712], "left_out": []}}
    )
    verdict: Verdict | None
    anomalies: list[int]
    left_out: list[int]


class PrecisionView(BaseModel):
    """What the verdicts say about one release.

    `precision` is over all verdicts; `baseline` over its first 30 and `recent` over its last 30, null before there are as
    many. `drifted_since` (Unix s) is null while precision holds, else when it began to fall.
    """

    release: str
    judged: int
    true_alarms: int
    false_alarms: int
    precision: float | None
    baseline: float | None
    recent: float | None
    drifted_since: float | None


class PrecisionSummary(BaseModel):
    """How precise a family's alarms are, per release, the one judged last first; `drifted` is that one's."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "family": "rotating-machine",
                "drifted": True,
                "drifted_since": 1767225600.0,
                "releases": [
                    {
                        "release": "rotating-machine/2",
                        "judged": 84,
                        "true_alarms": 55,
                        "false_alarms": 29,
                        "precision": 0.655,
                        "baseline": 0.867,
                        "recent": 0.433,
                        "drifted_since": 1767225600.0,
                    }
                ],
            }
        }
    )
    family: str
    drifted: bool
    drifted_since: float | None
    releases: list[PrecisionView]
