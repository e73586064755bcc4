"""Settings of devices: what the fleet sets on one, or on all that a query selects, and what is in force there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from sqlalchemy import select

from fleet.api.commands import SelectedBy, chosen_by
from fleet.api.dependencies import Services, get_services
from fleet.device_commands import batched, check_reachable, find_device
from fleet.device_query import device_filter
from fleet.device_settings import check_settings, settings_state, write_settings
from fleet.storage.command_tables import DeviceCommands
from fleet.storage.device_tables import Device
from fleet.views.devices import SettingsGiven, SettingsView
from protocol.messages.kinds import Kind
from service.access import require
from service.etags import IfMatch, check_version, versioned_tag
from service.paging import After, Limit, Page, cut_page, decode_cursor
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["settings of devices"])

Settings = Annotated[dict[str, FiniteFloat], Field(max_length=16)]


class SettingsAsked(BaseModel):
    """All that the fleet sets on a device; a setting that is not among them is as the device's own agent.toml says."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"settings": {"detection.budget.alarms_per_1000_windows": 0.5}}},
    )
    settings: Settings


class SettingsAskedByQuery(SettingsAsked):
    """The same for every enrolled device that `query` selects now; one that enrols later is not meant."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"query": "site==hall-1", "settings": {"health.every_s": 60}, "dry_run": True}
        }
    )
    query: SelectedBy
    dry_run: bool = False


@router.get("/devices/{device_id}/settings", dependencies=[Depends(require(Role.VIEWER))])
def show_settings(
    device_id: str, response: Response, services: Services = Depends(get_services)
) -> SettingsView:
    """What the fleet sets on a device, and what is in force there and why. The ETag goes with the next change, as If-Match."""
    with services.database.read() as session:
        device, word = find_device(session, device_id), session.get(DeviceCommands, device_id)
    return _tagged(response, _settings_view(device, word), word)


@router.put("/devices/{device_id}/settings")
def set_one(
    device_id: str,
    asked: SettingsAsked,
    response: Response,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    if_match: IfMatch = None,
) -> SettingsView:
    """Make these all that the fleet sets on a device. Durable when answered; in force there without a restart.

    422 names a setting that is not on the list, or a value outside its bounds. With the ETag of what was read as If-Match: 412
    where somebody else has set the device since.
    """
    _check(services, asked.settings)
    with services.database.write() as session:
        device = check_reachable(session, device_id)
        check_version(
            if_match, _version(session.get(DeviceCommands, device_id)), f"what is set on {device_id}"
        )
        changed = write_settings(session, [device_id], asked.settings, actor=caller.actor, now=services.now())
        session.flush()
        word = session.get(DeviceCommands, device_id)
        view = _settings_view(device, word)
    services.publisher.announce(changed, Kind.COMMANDS)
    return _tagged(response, view, word)


@router.get("/devices:settings", dependencies=[Depends(require(Role.VIEWER))])
def list_settings(
    query: str = "", after: After = None, limit: Limit = 100, services: Services = Depends(get_services)
) -> Page[SettingsView]:
    """The settings of the devices a query selects, by id."""
    rows = (
        select(Device, DeviceCommands)
        .outerjoin(DeviceCommands, DeviceCommands.device == Device.id)
        .where(device_filter(query))
        .order_by(Device.id)
        .limit(limit + 1)
    )
    if after:
        rows = rows.where(Device.id > decode_cursor(after))
    with services.database.read() as session:
        views = [_settings_view(*row) for row in session.execute(rows)]
    return cut_page(views, limit, key=lambda view: view.device)


@router.put("/devices:settings")
def set_many(
    asked: SettingsAskedByQuery,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> SettingsGiven:
    """Make these all that the fleet sets on many devices: those a query selects now, 500 at a time. Ask with `dry_run` first."""
    _check(services, asked.settings)
    now = services.now()
    changed: dict[str, None] = {}
    with services.database.read() as session:
        chosen = chosen_by(session, asked.query)
    for some in batched(chosen):
        # what is written in a `read` is discarded
        with services.database.read() if asked.dry_run else services.database.write() as session:
            differing = write_settings(session, some, asked.settings, actor=caller.actor, now=now)
        if not asked.dry_run:
            services.publisher.announce(differing, Kind.COMMANDS)
        changed |= dict.fromkeys(differing)
    return SettingsGiven(
        dry_run=asked.dry_run,
        devices=list(changed),
        unchanged=[name for name in chosen if name not in changed],
    )


def _check(services: Services, settings: Mapping[str, float]) -> None:
    check_settings(settings, offline_after_s=services.settings.offline_after_s)


def _version(word: DeviceCommands | None) -> str:
    return str(word.settings_counter if word is not None else 0)


def _tagged(response: Response, view: SettingsView, word: DeviceCommands | None) -> SettingsView:
    response.headers["ETag"] = versioned_tag(_version(word), view.model_dump_json().encode())
    return view


def _settings_view(device: Device, word: DeviceCommands | None) -> SettingsView:
    return SettingsView.model_validate(settings_state(device, word))
