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

__all__ = ["json_body"]

S = TypeVar("S", bound=msgspec.Struct)


def json_body(kind: type[S], *, example: dict[str, Any]) -> Callable[..., S]:
    """A dependency: the body of the request as `kind`; raises InvalidBodyError. OpenAPI shows fields and `example`."""
    (top,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    schema = _inline(top, components) | {"examples": [example]}

    def dependency(
        document: Annotated[dict[str, Any], WithJsonSchema(schema), Body(title=kind.__name__)],
    ) -> S:
        try:
            return check_document(document, kind, place=lambda _: "the body is not valid")
        except SettingsError as error:
            raise InvalidBodyError(str(error)) from None

    return dependency


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """`schema` without references, which would mean another place inside OpenAPI's document."""
    if isinstance(schema, list):
        return [_inline(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"]], components)
    return {key: _inline(part, components) for key, part in schema.items()}
