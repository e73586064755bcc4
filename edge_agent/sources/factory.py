"""Opens the source that the configuration names, your own ones included.

A plug-in is any importable callable ``module:function`` that returns a `port.Source`; see README.md beside this file.
"""

from __future__ import annotations

import importlib
from typing import assert_never

import msgspec

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import (
    LineSettings,
    LiveSettings,
    ModbusSettings,
    OpcUaSettings,
    TopicSettings,
)
from edge_agent.sources.plugin_guard import PluginGuard
from edge_agent.sources.port import Source
from edge_agent.sources.replay import ReplaySource
from edge_agent.sources.sampled import Instrument, SampledSource
from edge_agent.sources.settings import PluginSettings, ReplaySettings, SimulatedSettings, SourceSettings
from edge_agent.sources.simulated import SimulatedSource
from protocol.manifest import FeatureSpec

__all__ = ["open_source"]


def open_source(settings: SourceSettings) -> Source:
    """Build the source.

    Raises:
        SourceError: it cannot be opened; the message says what, where, and what would be valid.
    """
    match settings:
        case SimulatedSettings():
            return SimulatedSource(settings)
        case ReplaySettings():
            return ReplaySource(settings)
        case PluginSettings():
            return _open_plugin(settings)
        case OpcUaSettings() | ModbusSettings() | TopicSettings() | LineSettings():
            return _open_live(settings)
        case _:
            assert_never(settings)


def _open_live(settings: LiveSettings) -> Source:
    # Each is imported where it is used: a device carries one of them, and most none.
    match settings:
        case LineSettings():
            from edge_agent.sources.lines import LineSource

            return LineSource(settings)
        case OpcUaSettings():
            from edge_agent.sources.opcua import OpcUaInstrument

            instrument: Instrument = OpcUaInstrument(settings)
        case ModbusSettings():
            from edge_agent.sources.modbus import ModbusInstrument

            instrument = ModbusInstrument(settings)
        case TopicSettings():
            from edge_agent.sources.topics import TopicInstrument

            instrument = TopicInstrument(settings)
        case _:
            assert_never(settings)
    return SampledSource(
        settings.names,
        instrument,
        every_s=settings.every_s,
        window_rows=settings.window_rows,
        where=settings.where,
    )


def _open_plugin(settings: PluginSettings) -> Source:
    module_name, _, function_name = settings.factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # foreign code: a mistake anywhere in it, too
        told = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise SourceError(
            f"source.factory {settings.factory!r}: cannot import {module_name}: {told}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SourceError(
            f"source.factory {settings.factory!r}: {module_name} has no function {function_name!r}"
        )
    try:
        source = function(speed=settings.speed, **settings.options)
    except SourceError:
        raise
    except (Exception, SystemExit) as error:  # foreign code: whatever it raises must not cross this adapter
        raise SourceError(
            f"source.factory {settings.factory!r} failed: {type(error).__name__}: {error}"
        ) from error
    return PluginGuard(_checked(source, settings.factory), settings.factory)


def _checked(source: object, factory: str) -> Source:
    lacking = [name for name in ("spec", "next_due_s", "next_window", "close") if not hasattr(source, name)]
    if lacking:
        raise SourceError(
            f"source.factory {factory!r} returned a {type(source).__name__} without {', '.join(lacking)}; "
            f"it must return an edge_agent.sources.port.Source"
        )
    spec = source.spec  # type: ignore[attr-defined]  # its presence was checked by name just above
    if not isinstance(spec, FeatureSpec):
        raise SourceError(
            f"source.factory {factory!r}: spec must be a protocol.manifest.FeatureSpec, got {spec!r}"
        )
    try:
        # A struct that is made in a program is not checked, and its names travel.
        msgspec.convert(msgspec.to_builtins(spec), FeatureSpec)
    except (msgspec.ValidationError, TypeError) as error:
        raise SourceError(f"source.factory {factory!r}: spec is not valid: {error}") from None
    return source  # type: ignore[return-value]  # duck typing ends here: it has every member of the port
