"""A value cannot be changed after it was checked, and says the name of each field: frozen, keyword-only (style).

A struct that travels as a tuple is one here too."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest

PACKAGES = (
    "protocol",
    "runtime",
    "service",
    "models.drift",
    "models.thresholds",
    "edge_agent.installation",
    "edge_agent.privacy",
    "edge_agent.readiness",
    "aggregator.privacy",
    "aggregator.rounds",
    "aggregator.triggers",
    "fleet.auth",
    "fleet.broker_door.broker_files",
    "fleet.enrolment",
    "fleet.rollouts",
)
# What counts up while it runs is no value.
STATES = {
    "aggregator.rounds.group_attempt.GroupAttempt",
    "fleet.rollouts.memory.Held",
    "models.drift.bins._Bin",
    "protocol.secure_sum.device_role._Begun",
    "protocol.secure_sum.device_role._Settled",
}


def value_classes(package: str) -> Iterator[type]:
    """Every dataclass and struct that `package` (or one module) defines."""
    paths = getattr(importlib.import_module(package), "__path__", ())
    found = pkgutil.walk_packages(paths, f"{package}.")
    for name in [package, *(module.name for module in found)]:
        for kind in vars(importlib.import_module(name)).values():
            is_ours = inspect.isclass(kind) and kind.__module__ == name
            if is_ours and (dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)):
                yield kind


def is_frozen(kind: type) -> bool:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_config__.frozen
    return kind.__dataclass_params__.frozen  # type: ignore[attr-defined] # a dataclass


@pytest.mark.parametrize("package", PACKAGES)
def test_values_are_frozen_and_made_by_keyword(package: str) -> None:
    wrong = []
    for kind in value_classes(package):
        name = f"{kind.__module__}.{kind.__qualname__}"
        by_position = [
            parameter.name
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        is_tuple = issubclass(kind, msgspec.Struct) and kind.__struct_config__.array_like
        if len(by_position) > 1 and not is_tuple:
            wrong.append(f"{name} takes {', '.join(by_position)} by position")
        if not is_frozen(kind) and name not in STATES:
            wrong.append(f"{name} can be changed")
    assert not wrong, "\n".join(wrong)
