"""What pydantic found wrong with a request, as the members of a problem; and queries that nobody declared.

FastAPI leaves out what a call does not know: ``?limt=5`` would silently be a page of a hundred. Here it is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, get_args

from fastapi import Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from runtime.errors import Refused
from runtime.settings_messages import bounded, nearest, unknown_key
from service.errors import InvalidQueryError

__all__ = ["check_query", "refused_parameter"]

_QUOTED: Final = re.compile(r"'([^']*)'")
MOST_SHOWN: Final = 100


async def check_query(request: Request) -> None:
    """A dependency of every call: raises InvalidQueryError for a query that it does not know, or one that is given twice."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = {field.alias for field in get_flat_dependant(route.dependant).query_params}
    for name in request.query_params:
        if name not in known:
            refused = replace(unknown_key(name, (), known), where="query")
            raise InvalidQueryError(f"unknown query {name[:80]!r}; {nearest(name, (), known)}").about(refused)
        if len(request.query_params.getlist(name)) > 1:
            refused = Refused(field=name, nearest=name, allowed="once", where="query")
            raise InvalidQueryError(f"query {name!r} is given more than once").about(refused)


def refused_parameter(error: Mapping[str, Any], route: object) -> dict[str, Any]:
    """The members of a problem for one of pydantic's errors: `in`, `field`, `value`, `allowed`, `nearest`, as far as they are known."""
    place, *path = error["loc"] if error["loc"] else ("body",)
    field = ".".join(str(part) for part in path)[:200] if error["type"] != "json_invalid" else ""
    members: dict[str, Any] = {"in": str(place), "field": field or "$"}
    value, context = error.get("input"), error.get("ctx") or {}
    if error["type"] == "extra_forbidden":
        known = _keys_of_body(route)
        return members | _of_choices(field, known)
    if error["type"] == "missing":
        return members
    if isinstance(shown := bounded(field, value), str | int | float):
        members["value"] = shown
    choices = _QUOTED.findall(str(context.get("expected", "")))
    if choices:
        return members | _of_choices(str(value), choices)
    return members | {"allowed": str(error["msg"]).removeprefix("Input should be ")[:200]}


def _of_choices(given: str, choices: Iterable[str]) -> dict[str, Any]:
    valid = sorted(choices)
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return {"allowed": valid[:MOST_SHOWN]} | ({"nearest": near[0]} if near else {})


def _keys_of_body(route: object) -> list[str]:
    """The keys of the body that `route` takes; ours are flat."""
    body = route.body_field if isinstance(route, APIRoute) else None
    kind = None if body is None else body.field_info.annotation
    models = [
        part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    return [name for model in models for name in model.model_fields]
