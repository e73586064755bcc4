"""Builds a device's obedience out of the parts of the agent that its commands and settings act on."""

from __future__ import annotations

import time

from edge_agent.outbox import Outbox
from edge_agent.pipeline import Pipeline
from edge_agent.remote.actions import (
    AcceptAsNormal,
    Diagnose,
    Reactivate,
    Reactivation,
    Recommission,
    RetryParked,
)
from edge_agent.remote.diagnosis import Diagnosis
from edge_agent.remote.executor import Executor
from edge_agent.remote.fleet_settings import PLACES, SettingsInForce
from edge_agent.remote.journal import CommandFile
from edge_agent.settings import Settings
from edge_agent.trusted_clock import TrustedClock
from protocol.messages.kinds import CommandAction

__all__ = ["make_executor"]


def make_executor(
    own: Settings,
    file: CommandFile,
    settings: SettingsInForce,
    *,
    pipeline: Pipeline,
    installer: Reactivation,
    diagnosis: Diagnosis,
    outbox: Outbox,
    clock: TrustedClock,
) -> Executor:
    """What the fleet's word can do here.

    Args:
        own: agent.toml's, which says what a fleet may ask for.
        file: what survives a kill.
        settings: which are in force; `pipeline` was built by them.
        pipeline: keeps another budget, and learns another scale or what a person calls normal.
        installer: activates what runs once more.
        diagnosis: makes bundles.
        outbox: offers again what was parked.
        clock: knows whether a command has expired.
    """
    monotonic, own_budget = time.monotonic, own.detection.budget

    def apply(wished: Settings) -> dict[str, str]:
        budget = wished.detection.budget
        refused = pipeline.set_budget(budget) or (pipeline.normal.unheard if budget != own_budget else "")
        return {name: refused for name in PLACES if refused and ".budget." in name}

    return Executor(
        file,
        actions={
            CommandAction.REACTIVATE: Reactivate(installer, monotonic=monotonic),
            CommandAction.RECOMMISSION: Recommission(
                pipeline, allows_afresh=own.remote.afresh, monotonic=monotonic
            ),
            CommandAction.ACCEPT_AS_NORMAL: AcceptAsNormal(pipeline, wall=clock.wall_s, monotonic=monotonic),
            CommandAction.DIAGNOSE: Diagnose(diagnosis.make, monotonic=monotonic),
            CommandAction.RETRY_PARKED: RetryParked(outbox.retry_parked, monotonic=monotonic),
        },
        allowed=own.remote.commands,
        settings=settings,
        apply=apply,
        monotonic=monotonic,
        known_wall=clock.known_s,
    )
