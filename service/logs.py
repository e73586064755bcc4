"""How a cloud service logs: events and foreign records in one form on standard error. Called once, when it starts.

A command of the same program answers on standard output, where other programs read; its log is for what goes wrong.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from runtime.bounded_logs import BoundedLog, LogBudget
from runtime.printable import with_trace

__all__ = ["NAME_VARIABLE", "configure_logging", "log_of_a_command"]

NAME_VARIABLE: Final = "FEDGE_LOG_NAME"
"""Where several services share one log, each line says which of them it is of."""

_BURST: Final = 1000
"""Lines of one kind at once: ten thousand devices speak through one service."""
_EVERY_S: Final = 10.0
"""Then one in ten seconds: at most 9640 a day of one kind, some 2 MB."""


def log_of_a_command() -> None:
    """What is worth a warning goes to stderr; `configure_logging` takes its place where the command is a service."""
    configure_logging(as_json=False, least=logging.WARNING)


def configure_logging(*, as_json: bool, least: int = logging.INFO) -> None:
    """Send structlog's events and the standard library's records to stderr, in one form.

    Args:
        as_json: one JSON object a line, for programs; else lines for people.
        least: level of the least event that is told.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        *([_name_service] if os.environ.get(NAME_VARIABLE) else []),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else _for_people
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # a command that becomes a service says anew how it logs
        cache_logger_on_first_use=least != logging.WARNING,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    handler.addFilter(BoundedLog(LogBudget(time.monotonic, burst=_BURST, every_s=_EVERY_S)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    logging.captureWarnings(capture=True)
    # Requests, database migrations and Flower's own talk would drown the events of a run.
    for chatty in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "mqtt", "alembic", "flwr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _name_service(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("service", os.environ[NAME_VARIABLE])
    return event


_people: Final = structlog.dev.ConsoleRenderer(colors=False)


def _for_people(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    """One line, whatever is in it, and a traceback under it that cannot be taken for one."""
    trace = "\n".join(str(event.pop(key)) for key in ("stack", "exception") if key in event)
    return with_trace(str(_people(logger, name, event)), trace)
