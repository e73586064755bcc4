"""The JSON body of a request as a frozen msgspec struct: checked and refused in the same words as a settings file."""

# No `from __future__ import annotations`: FastAPI reads the type of `document`, which is made for each kind of body.

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Body
from pydantic import WithJsonSchema

from runtime.errors import SettingsError
from runtime.settings import check_document
from service.errors import InvalidBodyError

__all__ = ["json_answer", "json_body", "json_schema", "read_json_body"]

S = TypeVar("S", bound=msgspec.Struct)


def json_body(kind: type[S], *, example: dict[str, Any]) -> Callable[..., S]:
    """A dependency: the body of the request as `kind`; raises InvalidBodyError. OpenAPI shows fields and `example`."""

    def dependency(
        document: Annotated[
            dict[str, Any], WithJsonSchema(json_schema(kind, example)), Body(title=kind.__name__)
        ],
    ) -> S:
        return read_json_body(document, kind)

    return dependency


def read_json_body(document: dict[str, Any], kind: type[S]) -> S:
    """A body that was parsed as `kind`; raises InvalidBodyError."""
    try:
        # JSON can name half a character, which no database keeps and no answer can repeat.
        msgspec.json.encode(document)
    except (UnicodeError, RecursionError):
        raise InvalidBodyError("the body is not valid: it holds half a character, or is too deep") from None
    try:
        return check_document(document, kind, place=lambda _: "the body is not valid")
    except SettingsError as error:
        raise InvalidBodyError(str(error)).about(error.refused) from None


def json_schema(kind: type[msgspec.Struct], example: dict[str, Any] | None = None) -> dict[str, Any]:
    """`kind` as a JSON schema in one piece, as OpenAPI shows it."""
    (top,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    schema: dict[str, Any] = _inline(top, components)
    return schema | ({"examples": [example]} if example is not None else {})


def json_answer(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """`kind` as an answer in OpenAPI's `responses`."""
    return {
        "description": kind.__name__,
        "content": {"application/json": {"schema": json_schema(kind)}},
    }


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """`schema` without references, which would mean another place inside OpenAPI's document."""
    if isinstance(schema, list):
        return [_inline(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"]], components)
    return {key: _inline(part, components) for key, part in schema.items()}
