"""What each kind of alert is: how bad, in which words, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.alert_settings import AlertKind, Severity

__all__ = ["OF_DEVICES", "TERMS", "Terms", "is_as_bad"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A kind's severity, and `title` with the place for whom it is about, ``press-7`` or ``12 devices``.

    is_notice: it is told and never open. is_quiet: nothing tells of its end, so it ends when nothing more is said of it.
    is_level: it holds or does not; being said again means nothing, nor that it held while nobody was told.
    """

    severity: Severity
    title: str
    things: str = "devices"
    is_notice: bool = False
    is_quiet: bool = False
    is_level: bool = False


TERMS: Final[dict[AlertKind, Terms]] = {
    AlertKind.ANOMALY: Terms(severity=Severity.ERROR, title="Anomaly on {}"),
    AlertKind.DRIFT: Terms(severity=Severity.WARNING, title="Drift on {}", is_level=True),
    AlertKind.SILENT: Terms(severity=Severity.ERROR, title="Nothing heard from {}", is_level=True),
    AlertKind.BLIND: Terms(severity=Severity.ERROR, title="Blind, judging nothing: {}", is_level=True),
    AlertKind.DEAF: Terms(severity=Severity.CRITICAL, title="No device at all is heard by {}", is_level=True),
    AlertKind.CONFLICT: Terms(severity=Severity.ERROR, title="Two devices use the identity of {}"),
    AlertKind.PRECISION: Terms(
        severity=Severity.WARNING, title="Alarms are less often true than before: {}", things="releases"
    ),
    AlertKind.ROLLOUT: Terms(severity=Severity.CRITICAL, title="Rollout stopped: {}", things="rollouts"),
    AlertKind.APPROVAL: Terms(
        severity=Severity.WARNING, title="Rollout waits for approval: {}", things="rollouts", is_level=True
    ),
    AlertKind.ENROLMENT: Terms(severity=Severity.WARNING, title="Enrolment refused: {}", is_quiet=True),
    AlertKind.MESSAGES: Terms(severity=Severity.WARNING, title="Messages not taken from {}", is_quiet=True),
    AlertKind.RELEASE: Terms(
        severity=Severity.INFO, title="Release published: {}", things="releases", is_notice=True
    ),
}

OF_DEVICES: Final = (
    AlertKind.ANOMALY,
    AlertKind.DRIFT,
    AlertKind.SILENT,
    AlertKind.BLIND,
    AlertKind.CONFLICT,
    AlertKind.MESSAGES,
)
"""Kinds that end with the device: when it is revoked."""

_BY_SEVERITY: Final = list(Severity)


def is_as_bad(severity: Severity, least: Severity) -> bool:
    """Whether `severity` is `least` or worse.

    Examples:
        >>> is_as_bad(Severity.CRITICAL, Severity.ERROR), is_as_bad(Severity.INFO, Severity.WARNING)
        (True, False)
    """
    return _BY_SEVERITY.index(severity) <= _BY_SEVERITY.index(least)
