"""Requests made of an API's own OpenAPI document, sound and unsound, asked as everybody: nothing may fail, and nothing undocumented come.

schemathesis makes the requests; the judging is ours, so that it is plain what is asked of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode

SERVER_ERROR = 500


def operations(app: Any) -> dict[str, Any]:
    """Every operation of an application's document by ``METHOD path``."""
    document = schemathesis.openapi.from_dict(app.openapi())
    found = [result.ok() for result in document.get_all_operations()]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in found}


def ask(client: TestClient, operation: Any, callers: Mapping[str, str | None], *, examples: int) -> list[str]:
    """What was wrong with the answers to `examples` requests of an operation, each as one of `callers` (name → token)."""
    wrong: list[str] = []
    documented = set(operation.definition.raw["responses"])
    requests = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=requests, caller=st.sampled_from(sorted(callers)))
    def send(case: Any, caller: str) -> None:
        request = case.as_transport_kwargs(base_url="http://testserver")
        headers = {
            name: value.encode("latin-1")  # as a socket would carry it: a header may hold any byte
            for name, value in request.pop("headers").items()
            if name.lower() != "authorization"
        }
        if callers[caller] is not None:
            headers["Authorization"] = f"Bearer {callers[caller]}".encode()
        request.pop("cookies", None)
        answer = client.request(**request, headers=headers)
        known = {str(answer.status_code), f"{answer.status_code // 100}XX"} & documented
        if answer.status_code >= SERVER_ERROR or not known:
            place = urlsplit(str(answer.request.url))
            wrong.append(
                f"{caller}: {operation.method.upper()} {place.path[:200]}?{place.query[:200]} {str(request.get('json', ''))[:300]}: {answer.status_code} {answer.text[:200]}"
            )

    send()
    return wrong


def wrong_examples(app: Any) -> list[str]:
    """Where an example of an application's document is none of what it stands beside."""
    document = app.openapi()
    found = [
        (path, example, schema) for path, schema, examples in _examples(document, ()) for example in examples
    ]
    assert found, "a document without examples"
    return [
        f"{'/'.join(path)}: {error.message[:200]}"
        for path, example, schema in found
        for error in Draft202012Validator(schema | {"components": document["components"]}).iter_errors(
            example
        )
    ]


def _examples(
    node: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any], list[Any]]]:
    """Every place of a document with examples: the schema they are of, and the examples."""
    if isinstance(node, list):
        for number, one in enumerate(node):
            yield from _examples(one, (*path, str(number)))
    if not isinstance(node, dict):
        return
    if isinstance(node.get("schema"), dict) and "example" in node:
        yield path, node["schema"], [node["example"]]
    is_schema = "schema" not in node and not {"type", "$ref", "anyOf", "properties"}.isdisjoint(node)
    if is_schema and path[-1:] != ("properties",):
        listed = node["examples"] if isinstance(node.get("examples"), list) else []
        yield path, node, [*listed, *([node["example"]] if "example" in node else [])]
    for key, one in node.items():
        yield from _examples(one, (*path, key))
