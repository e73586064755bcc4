"""What every service says of itself to Prometheus: its process, which build it is, and how its calls are answered.

Labels are bounded: a path is counted under its route's pattern, and what is no route under one word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CallFigures", "CountedCalls", "expose_process"]

NO_ROUTE: Final = "none"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def expose_process(registry: CollectorRegistry, service: str) -> None:
    """Show CPU, memory and open files of this process, and the build that runs."""
    ProcessCollector(registry=registry)
    try:
        build = version("fedge")
    except PackageNotFoundError:  # run from a folder that nobody installed
        build = "unknown"
    Gauge("fedge_build_info", "1, of the build that runs", ["service", "version"], registry=registry).labels(
        service, build
    ).set(1)


class CallFigures:
    """Answers by route and status, and how long the first byte took, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "fedge_http_answers",
            "Answers by route and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "fedge_http_seconds", "Time to the head of an answer", buckets=_SECONDS, registry=registry
        )


class CountedCalls:
    """ASGI middleware: counts what came of each request.

    Args:
        app: what comes behind.
        figures: get it.
        clock: seconds, ever growing.
    """

    def __init__(
        self, app: ASGIApp, *, figures: CallFigures, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app, self._figures, self._clock = app, figures, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and count what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._clock()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._figures.seconds.observe(self._clock() - begun)
                route = getattr(scope.get("route"), "path", NO_ROUTE)
                # what a stranger calls a method is no label
                method = scope["method"] if route != NO_ROUTE else NO_ROUTE
                self._figures.answers.labels(method, route, f"{message['status'] // 100}xx").inc()
            await send(message)

        await self._app(scope, receive, counted)
