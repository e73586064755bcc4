"""A plan as a person types it: a few fields for the common one, JSON for the rest; and where in it a refusal belongs.

Pure. What the fields say is made into the same document that ``POST /v1/rollouts`` takes, and checked as that: a field that means
nothing is refused in the words of the API, beside the field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, Field

from fleet.errors import BadRequestError
from fleet.rollouts.plans import RolloutPlan
from runtime.errors import FedgeError, Refused
from service.idempotency import minted_key
from service.json_bodies import read_json_body

__all__ = ["Misplaced", "PlanForm", "new_form", "place_of", "read_plan"]

HOUR_S: Final = 3600.0

Short = Annotated[str, Field(max_length=200)]

_FIELDS: Final = {
    "name": "name",
    "release": "release",
    "target_query": "target_query",
    "rollback_to": "rollback_to",
    "groups[0]": "first",
    "groups[1]": "second",
    "groups": "first",
    "gates": "on_not_seen",
    "abort": "abort_pct",
    "require_approval": "require_approval",
}
"""Which field of the form a key of the plan comes from."""


class PlanForm(BaseModel):
    """What was typed, as text; what was left empty is empty. `more` is a JSON object whose keys go over the other fields.

    `key` is the idempotency key of the rollout to be; `first_unit` is percent or devices.
    """

    key: Annotated[str, Field(max_length=100)] = ""
    name: Short = ""
    release: Short = ""
    target_query: Annotated[str, Field(max_length=2000)] = ""
    first: Short = ""
    first_unit: Short = ""
    second: Short = ""
    soak_h: Short = ""
    on_not_seen: Short = ""
    abort_pct: Short = ""
    rollback_to: Short = ""
    require_approval: Short = ""
    more: Annotated[str, Field(max_length=20_000)] = ""


def new_form(*, release: str, target_query: str) -> PlanForm:
    """The form as it is opened: with the defaults of a plan (docs/gates.md)."""
    return PlanForm(
        key=minted_key(),
        release=release,
        target_query=target_query,
        first="5",
        first_unit="percent",
        second="25",
        soak_h="1",
        on_not_seen="pause",
        abort_pct="10",
    )


@dataclass(frozen=True, kw_only=True)
class Misplaced:
    """A refusal, and the field of the form it stands beside; empty: it is about the whole plan."""

    field: str
    words: str


def read_plan(form: PlanForm) -> RolloutPlan:
    """The plan that was typed.

    Raises:
        BadRequestError: `more` is no JSON object.
        InvalidBodyError: a key or value that no plan has.
    """
    return read_json_body(_document(form) | _more(form.more), RolloutPlan)


def _document(form: PlanForm) -> dict[str, Any]:
    soak_s = _times(form.soak_h or "0", HOUR_S)
    first = "count" if form.first_unit == "devices" else "percentage"
    groups: list[dict[str, Any]] = [{"name": "canary", first: _number(form.first), "soak_s": soak_s}]
    if form.second.strip():
        groups.append({"percentage": _number(form.second), "soak_s": soak_s})
    groups.append({"percentage": 100, "soak_s": soak_s})
    document: dict[str, Any] = {
        "name": form.name.strip() or form.release,
        "release": form.release.strip(),
        "target_query": form.target_query.strip(),
        "groups": groups,
        "require_approval": bool(form.require_approval),
        "gates": {"on_not_seen": form.on_not_seen or "pause"},
    }
    if form.rollback_to.strip():
        document["rollback_to"] = form.rollback_to.strip()
    if form.abort_pct.strip():
        document["abort"] = [
            {"threshold_pct": _number(form.abort_pct), "min_executed": 5, "action": "rollback"}
        ]
    return document


def _number(text: str) -> Any:
    """The number that was typed, or the text, which the plan refuses by name."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _times(text: str, factor: float) -> Any:
    value = _number(text)
    return value * factor if isinstance(value, int | float) else value


def _more(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        words = f"this is no JSON: {error}; leave it empty, or give an object of keys of a plan"
        raise BadRequestError(words[:300]).about(Refused(field="more")) from None
    if not isinstance(found, dict):
        raise BadRequestError('this must be an object of keys of a plan, e.g. {"dynamic": true}').about(
            Refused(field="more")
        )
    return found


def place_of(error: FedgeError, form: PlanForm) -> Misplaced:
    """Beside which field of `form` a refusal belongs."""
    refused = error.refused
    words = str(error).removeprefix("the body is not valid: ")
    if refused is None:
        return Misplaced(words=words, field=_by_words(words))
    top = refused.field.partition(".")[0]
    if refused.field == "more" or _is_typed_as_json(top, form.more):
        return Misplaced(field="more", words=words)
    known = _FIELDS.get(top) or _FIELDS.get(top.partition("[")[0]) or _by_words(words)
    return Misplaced(field=known or ("" if top == "$" else "more"), words=words)


def _is_typed_as_json(top: str, more: str) -> bool:
    try:
        return top.partition("[")[0] in msgspec.json.decode(more or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return False


def _by_words(words: str) -> str:
    """Refusals that name no field: about the release, the devices, or the groups together."""
    marks = (
        ("target_query", "target_query"),
        ("rollback_to", "rollback_to"),
        ("group", "first"),
        ("release", "release"),
    )
    return next((name for mark, name in marks if mark in words), "")
