"""Pages that `make docs` makes anew: one of each package's docstrings, one of each HTTP API. A hook of MkDocs.

Links that leave ``docs/`` (to examples, READMEs) become plain text, since the site does not hold their targets.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# MkDocs loads a hook by its file, not from a package.
sys.path.insert(0, str(Path(__file__).parent))
from settings_pages import settings_page

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = (
    "runtime",
    "protocol",
    "models",
    "service",
    "edge_agent",
    "aggregator",
    "fleet",
    "simulations",
    "fedge",
)
_LEAVING: Final = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)#]*)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages and the decisions into the navigation."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav = [
        *(config.nav or ()),
        {"Decisions": [f"decisions/{page.name}" for page in decisions]},
        {"Every setting": [f"reference/{page}.md" for page in _settings()]},
        {"HTTP": [f"reference/{name}.md" for name in _apis()]},
        {"Modules": [{room: f"reference/{room}.md"} for room in _rooms()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    pages = {room: _modules_page(room, modules) for room, modules in _rooms().items()}
    pages |= _settings()
    pages |= {name: _api_page(schema) for name, schema in _apis().items()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name what lies outside the site instead of linking to it."""
    return _LEAVING.sub(r"\1 (`\2`)", markdown)


def _settings() -> dict[str, str]:
    from aggregator.settings import Settings as Aggregator
    from edge_agent.settings import Settings as Agent
    from fleet.settings import Settings as Fleet

    return {
        "aggregator-settings": settings_page("fedge-aggregator", Aggregator, "FEDGE_AGGREGATOR_"),
        "agent-settings": settings_page("fedge-agent", Agent, "FEDGE_AGENT_"),
        "fleet-settings": settings_page("fedge-fleet", Fleet, "FEDGE_FLEET_SERVICE_"),
    }


def _rooms() -> dict[str, list[str]]:
    """Each folder of modules by its dotted name, in the order of `PACKAGES`."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if "versions" in file.parts or file.name == "__main__.py":
                continue
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            rooms[".".join(file.parent.relative_to(ROOT).parts)].append(module)
    return rooms


def _modules_page(room: str, modules: list[str]) -> str:
    # A package's own page entry must not pull in its modules a second time.
    blocks = (
        f"::: {name}\n" + ("    options: {members: false}\n" if name == room else "") for name in modules
    )
    return f"# {room}\n\n" + "\n".join(blocks)


def _apis() -> dict[str, dict[str, Any]]:
    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry

    from aggregator.api.application import create_api
    from fleet.app import ROUTERS

    fleet = FastAPI(title="Fedge fleet")
    for router in ROUTERS:
        fleet.include_router(router)
    aggregator = create_api(Any, Any, Any, CollectorRegistry(), dict)  # described, never called
    return {"fleet-api": fleet.openapi(), "aggregator-api": aggregator.openapi()}


def _api_page(schema: dict[str, Any]) -> str:
    lines = [
        f"# {schema['info']['title']}: HTTP",
        "",
        "Bearer tokens; errors are problem documents (RFC 9457).",
    ]
    for path, methods in schema["paths"].items():
        for method, call in methods.items():
            lines += ["", f"## `{method.upper()} {path}`", "", call.get("description", call["summary"]), ""]
            lines += [_parameter(parameter) for parameter in call.get("parameters", [])]
            body = call.get("requestBody", {}).get("content", {})
            lines += [f"* body: {kind}{_schema_name(content)}" for kind, content in body.items()]
            lines += [
                f"* answers {status}: {answer['description']}" for status, answer in call["responses"].items()
            ]
    lines += ["", "## Bodies", ""]
    models = dict(_inline_models(schema["paths"])) | schema.get("components", {}).get("schemas", {})
    for name, model in sorted(models.items()):
        lines += ["", f"### {name}", "", model.get("description", ""), ""]
        for key, value in model.get("properties", {}).items():
            needed = "" if key in model.get("required", []) else ", optional"
            lines.append(f"* `{key}`: {_kind(value)}{needed}. {value.get('description', '')}")
    return "\n".join(lines) + "\n"


def _inline_models(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies that OpenAPI describes where they are used (`service.json_bodies`), and the objects inside them, by title."""
    if isinstance(schema, dict):
        if "properties" in schema and "title" in schema:
            yield schema["title"], schema
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from _inline_models(part)


def _parameter(parameter: dict[str, Any]) -> str:
    needed = "" if parameter.get("required") else ", optional"
    kind = _kind(parameter["schema"])
    return f"* {parameter['in']} `{parameter['name']}`: {kind}{needed}. {parameter.get('description', '')}"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "properties" in schema and "title" in schema:
        return f"`{schema['title']}`"
    return str(schema.get("type", "any"))


def _schema_name(content: dict[str, Any]) -> str:
    return f", {_kind(content['schema'])}" if "schema" in content else ""
