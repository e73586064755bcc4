"""A payload as plain JSON data with every field in it.

On the wire a field that holds its default may be left out; in the database and in the API it is always there. Null is
what the sender cannot have meant: an agent that does not count judged windows knows nothing of those fields either, and
where nothing is promised nothing was kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from protocol.messages.payloads import Health

__all__ = ["plain_data"]


_REALISED: Final = (
    "is_promise_provisional",
    "promise_horizon_left",
    "realised_alarms",
    "realised_windows",
    "realised_low_per_1000",
    "time_in_alarm_share",
)
"""Fields of `Health` that mean nothing where nothing is promised: a network judges, or the agent knows no promise."""

_UNTOLD: Final = (
    "unjudged_windows",
    "restarts",
    "crashes",
    "stage_failures",
    "missing",
    "commissioned_share",
    "is_provisional",
    "clipped_share",
    "sight",
    "set_aside_windows",
    "obeyed",
    "problems",
)
"""Fields of `Health` that came together with `interval_judged`, which such an agent always sends."""


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Every field of a payload by name, with what it is where it did not travel."""
    fields = msgspec.structs.fields(kind)
    given = {
        one.name: one.default_factory() if callable(one.default_factory) else one.default for one in fields
    }
    return {
        name: None if value is msgspec.NODEFAULT or value is msgspec.UNSET else msgspec.to_builtins(value)
        for name, value in given.items()
    }


def plain_data(payload: msgspec.Struct) -> dict[str, Any]:
    """Every field of `payload` by name, as numbers, texts, lists and objects."""
    # at once, and what holds its default from a table: a health message has forty fields, of which few travel
    fields = {**_defaults(type(payload)), **msgspec.to_builtins(payload)}
    if isinstance(payload, Health) and payload.interval_judged is None:
        fields |= dict.fromkeys(_UNTOLD)
    if isinstance(payload, Health) and payload.promised_per_1000 is None:
        fields |= dict.fromkeys(_REALISED)
    return fields
