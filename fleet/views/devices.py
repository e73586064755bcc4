"""Devices as the API shows them: what each is, its starts, and what is set on it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from fleet.storage.device_tables import DeviceState

__all__ = [
    "BootView",
    "DeviceView",
    "Erasure",
    "FilterView",
    "SettingInForceView",
    "SettingsGiven",
    "SettingsView",
]


class DeviceView(BaseModel):
    """A device as the fleet sees it; times are Unix seconds.

    `state` is whether the fleet lets it in, `agent_state` what its agent last said it does: `blind` judges nothing.
    `last_health` is the device's latest health message; a field is null there if its agent is too old to know it. Of
    windows: `unjudged_windows` got no score, `missing` sensors deliver nothing usable, `clipped_share` of the values lie
    at the end of the scale, `sight` is the share of small disturbances that would alarm, `set_aside_windows` wait for
    somebody to call them normal. Of false alarms: `promised_per_1000` windows at most (null: nothing is promised), against
    `realised_alarms` in `realised_windows` with the exact 95 % interval `realised_low_per_1000` to `realised_high_per_1000`. `problems` are sentences for people.
    `commands_counter` is that of the fleet's last word to it (commands and settings; it has heard it when `last_health.obeyed` is as
    great), `outstanding_commands` how many commands have not ended, `open_alarms` how many anomalies last.
    `family`, `site` and `labels` are what it is by its claim or by a person's word; `reported_family`, `reported_labels` and
    `hardware` what it says of itself. `state` is `waiting` until a person approves it. `claim` let it in, None for one from before
    claims had ids. Its certificate ends at `certificate_ends_at`.
    `identity_conflict` says, while it is so, that two devices use this identity, and which boots they are in. `limited_messages`
    came faster than a device may send (the last at `limited_at`), and were not taken.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "press-7",
                "hardware": "rpi4",
                "family": "rotating-machine",
                "site": "hall-1",
                "labels": {"line": "3"},
                "reported_family": "rotating-machine",
                "reported_labels": {"machine": "press"},
                "claim": "09af31b2c477",
                "state": "enrolled",
                "online": True,
                "public_key": "-----BEGIN PUBLIC KEY-----…",
                "fingerprint": "3f…",
                "agent_version": "0.1.0",
                "release": "rotating-machine/2",
                "desired_release": "rotating-machine/2",
                "desired_counter": 2,
                "commands_counter": 92000001,
                "outstanding_commands": 0,
                "open_alarms": 1,
                "agent_state": "watching",
                "last_health": {
                    "state": "watching",
                    "windows": 5120,
                    "unjudged_windows": 3,
                    "missing": ["temperature"],
                    "sight": 0.83,
                    "promised_per_1000": 1.0,
                    "realised_alarms": 4,
                    "realised_windows": 5117,
                    "realised_low_per_1000": 0.21,
                    "realised_high_per_1000": 2.0,
                    "problems": ["sensor temperature delivers nothing; the rest is watched"],
                },
                "last_health_at": 1767225600.0,
                "drifted": False,
                "drift_since": None,
                "drift_score": 0.3,
                "boot_id": "5f0c2f9a41d04b7e",
                "identity_conflict": None,
                "limited_at": None,
                "limited_messages": 0,
                "last_seen": 1767225600.0,
                "enrolled_at": 1767000000.0,
                "certificate_ends_at": 1769592000.0,
            }
        }
    )
    id: str
    hardware: str
    family: str
    site: str
    labels: dict[str, str]
    reported_family: str | None
    reported_labels: dict[str, str]
    claim: str | None
    state: str
    online: bool
    public_key: str
    fingerprint: str
    agent_version: str | None
    release: str | None
    desired_release: str | None
    desired_counter: int | None
    commands_counter: int | None
    outstanding_commands: int
    open_alarms: int
    agent_state: str | None
    last_health: dict[str, Any] | None
    last_health_at: float | None
    drifted: bool
    drift_since: float | None
    drift_score: float | None
    boot_id: str | None
    identity_conflict: str | None
    limited_at: float | None
    limited_messages: int
    last_seen: float | None
    enrolled_at: float
    certificate_ends_at: float | None


class BootView(BaseModel):
    """One start of a device and what is stored of it: sequences `first` to `last`, less the `missing` ones.

    `number` is which of the device's starts it is, null where its agent does not count them. `given_up` of the missing ones
    lie so far back in so many gaps that the fleet counts them only. The last boot of the list is the present one.
    """

    boot_id: str
    number: int | None
    hardware: str | None
    agent_version: str | None
    first_received: float
    last_received: float
    first: int
    last: int
    missing: int
    given_up: int


class Erasure(BaseModel):
    """What was removed: rows by table (or emptied, where the fleet's own record stays), and whether the device goes on."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "device": "press-1",
                "state": "enrolled",
                "rows": {"anomalies": 3, "health_reports": 2880},
            }
        }
    )
    device: str
    state: DeviceState
    rows: dict[str, int]


class FilterView(BaseModel):
    """A device query that `owner` keeps under a name; `is_shared`: everybody sees it."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "example": {
                "id": 3,
                "name": "short of sight",
                "query": "sight=lt=0.5",
                "owner": "eve",
                "is_shared": True,
                "created_at": 1767225600.0,
            }
        },
    )
    id: int
    name: str
    query: str
    owner: str
    is_shared: bool
    created_at: float


class SettingInForceView(BaseModel):
    """A setting as it is on a device: its value, who said so (`default`, `file`, `fleet`), why a wish was refused."""

    value: float | None
    source: str
    refused: str


class SettingsView(BaseModel):
    """What the fleet wants of a device's settings, and what the device last said is in force.

    `is_obeyed`: it has heard of what is wanted (null: nothing ever was); what it refused says so. Of `in_force` what is
    simply the default is left out.
    """

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "example": {
                "device": "press-7",
                "wanted": {"health.every_s": 60.0},
                "set_by": "operator:eve",
                "set_at": 1767225600.0,
                "is_obeyed": True,
                "in_force": {"health.every_s": {"value": 60.0, "source": "fleet", "refused": ""}},
            }
        },
    )
    device: str
    wanted: dict[str, float]
    set_by: str | None
    set_at: float | None
    is_obeyed: bool | None
    in_force: dict[str, SettingInForceView]


class SettingsGiven(BaseModel):
    """Whose settings change (with `dry_run`: would), and for whom they are so already."""

    dry_run: bool
    devices: list[str]
    unchanged: list[str]
