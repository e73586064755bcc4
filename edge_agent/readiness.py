"""May this device lend itself to a training run now? A pure rule, and the sensors that feed it.

Inference comes first: a hot, unplugged or barely taught device says no, with one reason, and is asked again later.
What a device cannot tell (no thermal zone, no power supply entry) counts as fine.

Source: Linux sysfs ABI, Documentation/ABI/testing/sysfs-class-thermal and sysfs-class-power.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.settings import LearnerSettings
from protocol.messages.payloads import TrainingInvitation

__all__ = ["Conditions", "Device", "read_conditions", "refusal"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Of the hardware: hottest zone in °C and whether mains power is on; None where it cannot tell."""

    temperature_c: float | None = None
    on_mains: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """What this device would bring to a run: the layout of its committed model (None: no model), rows."""

    layout_sha256: str | None
    buffered_windows: int
    is_installing: bool


def refusal(
    invitation: TrainingInvitation,
    device: Device,
    conditions: Conditions,
    settings: LearnerSettings,
    *,
    minimum_windows: int,
) -> str | None:
    """Why this device does not join now, in one line; None where it is ready.

    Args:
        invitation: what is asked, by the aggregator and of this family (`aggregator_trust`).
        device: what is there.
        conditions: of the hardware.
        settings: this device's own limits.
        minimum_windows: fewest that this device's owner has answers made from.
    """
    needed = max(minimum_windows, invitation.minimum_windows)
    limit = settings.maximum_temperature_c
    checks = (
        (settings.enabled, "learning is switched off (learner.enabled = false)"),
        (device.layout_sha256 is not None, "no model is active yet"),
        (
            device.layout_sha256 == invitation.layout_sha256,
            f"the run trains another model layout ({invitation.layout_sha256[:12]}…, here {(device.layout_sha256 or '')[:12]}…)",
        ),
        (not device.is_installing, "a release is being installed"),
        (
            device.buffered_windows >= needed,
            (
                f"{device.buffered_windows} windows are buffered, {needed} are needed ({minimum_windows} by"
                f" privacy.minimum_windows here, {invitation.minimum_windows} by rounds.minimum_windows of the family)"
            ),
        ),
        (
            conditions.temperature_c is None or conditions.temperature_c <= limit,
            f"it is {conditions.temperature_c} °C hot, the limit is {limit} °C",
        ),
        (
            not settings.require_power or conditions.on_mains is not False,
            "it runs on battery (learner.require_power = true)",
        ),
    )
    return next((reason for is_fine, reason in checks if not is_fine), None)


def read_conditions(sysfs: Path = Path("/sys/class")) -> Conditions:
    """Ask the kernel; unreadable entries are skipped."""
    temperatures = [t / 1000.0 for t in _numbers(sysfs / "thermal", "thermal_zone*/temp")]
    supplies = list(_numbers(sysfs / "power_supply", "*/online"))
    return Conditions(
        temperature_c=max(temperatures) if temperatures else None,
        on_mains=any(online > 0 for online in supplies) if supplies else None,
    )


def _numbers(directory: Path, pattern: str) -> list[float]:
    found = []
    for path in sorted(directory.glob(pattern)):
        try:
            found.append(float(path.read_text(encoding="ascii").strip()))
        except (OSError, ValueError):  # a zone whose sensor is asleep answers with an error
            continue
    return found
