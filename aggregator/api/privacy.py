"""``/v1/privacy``: what the rounds of each family have cost, and what one device has given, with what is left of the limits."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.spending import (
    DeviceSpending,
    FamilySpending,
    Spent,
    spent_by_device,
    spent_by_family,
    told,
)
from aggregator.rounds.run_groups import planned_mode
from aggregator.run_scheduler import RunScheduler
from protocol.names import DeviceId, FamilyName
from service.access import require
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1/privacy", tags=["privacy"])

Viewer = Annotated[Caller, Depends(require(Role.VIEWER))]
DeviceName = Annotated[str, Path(max_length=64, examples=["press-7"])]


class Amount(BaseModel):
    """`spent` is null where nothing limits it (a sum without noise), `limit` where none is set; `left` is what may follow, null: no limit."""

    spent: float | None
    limit: float | None
    left: float | None


class FamilyPrivacy(BaseModel):
    """What a family's rounds cost so far, at `delta`; towards the aggregator (`epsilon_server`) and whoever sees releases.

    `sums`: how many the device is in that is in most. Of all `rounds` that were seen, `noiseless` carried no noise. In `mode` plain nothing
    is counted: the aggregator sees each answer; `mode` is unknown of a family that is configured no more.
    """

    family: str
    mode: str
    delta: float
    epsilon_server: Amount
    epsilon_release: Amount
    sums: Amount
    devices: int
    rounds: int
    noiseless: int


class Families(BaseModel):
    """Every family that is configured, or has rounds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [
                    {
                        "family": "rotating-machine",
                        "mode": "private",
                        "delta": 1e-6,
                        "epsilon_server": {"spent": 3.1, "limit": 8.0, "left": 4.9},
                        "epsilon_release": {"spent": 1.2, "limit": 4.0, "left": 2.8},
                        "sums": {"spent": 6, "limit": 100, "left": 94},
                        "devices": 40,
                        "rounds": 6,
                        "noiseless": 0,
                    }
                ]
            }
        }
    )
    items: list[FamilyPrivacy]


class GivenToRun(BaseModel):
    """One run: how often the device was `asked`, in how many `sums` it is, of which questions, and what these alone cost."""

    run: str
    first_at: float
    last_at: float
    asked: int
    sums: int
    noiseless: int
    epsilon: float | None
    questions: dict[str, int]


class GivenToFamily(BaseModel):
    """What a device gave to a family, over all runs; the newest 200 of these one by one, the latest first."""

    family: str
    delta: float
    epsilon: Amount
    sums: Amount
    noiseless: int
    runs: list[GivenToRun]


class DevicePrivacy(BaseModel):
    """What a device has given by the aggregator's ledger; no `families`: it was asked nothing.

    The device counts for itself, with limits that its owner set, and what it says in operation is in neither: `fedge-agent privacy`
    there shows its own account.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "device": "press-7",
                "families": [
                    {
                        "family": "rotating-machine",
                        "delta": 1e-6,
                        "epsilon": {"spent": 3.1, "limit": 8.0, "left": 4.9},
                        "sums": {"spent": 6, "limit": 100, "left": 94},
                        "noiseless": 0,
                        "runs": [
                            {
                                "run": "run-1",
                                "first_at": 1767225600.0,
                                "last_at": 1767225900.0,
                                "asked": 7,
                                "sums": 6,
                                "noiseless": 0,
                                "epsilon": 3.1,
                                "questions": {"train.fit": 5, "evaluate.assess": 1},
                            }
                        ],
                    }
                ],
            }
        }
    )
    device: str
    families: list[GivenToFamily]


@router.get("")
async def show_families(request: Request, _viewer: Viewer) -> Families:
    """What each family's rounds have cost, and what is left of its budget."""
    return await asyncio.to_thread(_families, request.app.state.scheduler, request.app.state.privacy)


def _families(scheduler: RunScheduler, accounts: PrivacyAccounts) -> Families:
    names = sorted({*scheduler.families, *accounts.families()})
    return Families(items=[_family(scheduler, accounts, FamilyName(name)) for name in names])


def _family(scheduler: RunScheduler, accounts: PrivacyAccounts, name: FamilyName) -> FamilyPrivacy:
    found: FamilySpending = spent_by_family(name, accounts.rounds(name), accounts.budget(name))
    policy = scheduler.families.get(name)
    return FamilyPrivacy(
        family=name,
        mode="unknown" if policy is None else planned_mode(policy),
        delta=found.delta,
        epsilon_server=_amount(found.epsilon_server),
        epsilon_release=_amount(found.epsilon_release),
        sums=_amount(found.sums),
        devices=found.devices,
        rounds=found.rounds,
        noiseless=found.noiseless,
    )


@router.get("/devices/{device}")
async def show_device(device: DeviceName, request: Request, _viewer: Viewer) -> DevicePrivacy:
    """What one device has given to each family, run by run, and what is left of its budget here."""
    return await asyncio.to_thread(_device, device, request.app.state.privacy)


def _device(device: str, accounts: PrivacyAccounts) -> DevicePrivacy:
    found = (
        spent_by_device(DeviceId(device), name, accounts.rounds(name), accounts.budget(name))
        for name in accounts.families()
    )
    return DevicePrivacy(device=device, families=[_given(one) for one in found if one is not None])


def _given(found: DeviceSpending) -> GivenToFamily:
    return GivenToFamily(
        family=found.family,
        delta=found.delta,
        epsilon=_amount(found.epsilon),
        sums=_amount(found.sums),
        noiseless=found.noiseless,
        runs=[GivenToRun.model_validate(vars(run) | {"epsilon": told(run.epsilon)}) for run in found.runs],
    )


def _amount(spent: Spent) -> Amount:
    return Amount(spent=told(spent.spent), limit=spent.limit, left=spent.left)
