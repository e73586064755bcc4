"""A real OPC UA server on loopback, in a thread of its own, whose nodes a test sets."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncua import Server, ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.user_managers import UserManager

logging.getLogger("asyncua").setLevel(logging.CRITICAL)


class OnlyOperator(UserManager):
    """Lets in operator with one password, or a certificate's owner."""

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        is_known = (username, password) == ("operator", "s3cret-word")
        return User(role=UserRole.User) if is_known else None


class OpcUaServer:
    """``with OpcUaServer(port, {"Pressure": 1.5}) as server: server.set("Pressure", 2.0)``."""

    def __init__(
        self,
        port: int,
        values: dict[str, Any],
        *,
        security: tuple[Path, Path] | None = None,
    ) -> None:
        self.port = port
        self.url = f"opc.tcp://127.0.0.1:{port}/plant"
        self._values, self._security = values, security
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._nodes: dict[str, Any] = {}
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, name: str, value: Any) -> None:
        """A value, or a whole `ua.DataValue`."""
        self._run(lambda: self._nodes[name].write_value(value))

    def stop(self) -> None:
        """The server goes away."""
        server, self._server = self._server, None
        if server is not None:
            self._run(server.stop)

    def _run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(60)

    async def _start(self) -> None:
        server = Server(user_manager=OnlyOperator() if self._security else None)
        await server.init()
        server.set_endpoint(self.url)
        if self._security is not None:
            await server.load_certificate(self._security[0])
            await server.load_private_key(self._security[1])
            server.set_security_policy(
                [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt], permission_ruleset=SimpleRoleRuleset()
            )
        index = await server.register_namespace("urn:test")
        assert index == 2
        for name, value in self._values.items():
            node = ua.NodeId(name, 2)
            self._nodes[name] = await server.nodes.objects.add_variable(node, name, value)
        await server.start()
        self._server = server
