"""Servers that are told of alerts, of the test's own: HTTP and SMTP with TLS, which note what comes, refuse, die and return."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message as Mail
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from free_ports import free_port
from secret_file import secret_file


@dataclass
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class HttpListener:
    """A server at `port`, over TLS; `answer` says what it answers: status, headers, body."""

    port: int
    heard: list[Heard] = field(default_factory=list)
    answer: Callable[[Heard], tuple[int, dict[str, str], bytes]] = lambda _heard: (200, {}, b"ok")

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hook"


class Authority:
    """A CA of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        return context


@contextmanager
def http_listener(authority: Authority, port: int = 0) -> Iterator[HttpListener]:
    """A server that notes each POST, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            heard = Heard(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(content))
            listener.heard.append(heard)
            status, headers, body = listener.answer(heard)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_arguments: Any) -> None: ...

    server = Quiet(("127.0.0.1", port), Handler)
    server.socket = authority.server_context().wrap_socket(server.socket, server_side=True)
    listener = HttpListener(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Mailbox:
    """Handler of aiosmtpd: keeps mails; refuses the recipients in `refused`, and everything with `trouble`."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.recipients: list[list[str]] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.refused: set[str] = set()
        self.trouble = ""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd calls it so
        self, _server: SMTP, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802 - as above
        if self.trouble:
            return self.trouble
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    def authenticate(
        self, _server: SMTP, _session: Any, _envelope: Any, _mechanism: str, given: Any
    ) -> AuthResult:
        assert isinstance(given, LoginPassword)
        self.logins.append((given.login, given.password))
        return AuthResult(success=given.password == b"pass phrase", handled=False)


@contextmanager
def mail_server(authority: Authority, mailbox: Mailbox, port: int = 0) -> Iterator[int]:
    """A mail server that wants STARTTLS and a login; gives its port."""
    server = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=port or free_port(),  # it asks the port that it was given
        tls_context=authority.server_context(),
        ready_timeout=300,
        require_starttls=True,
        auth_required=True,
        authenticator=mailbox.authenticate,
    )
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


def secret(folder: Path, name: str, text: str) -> Path:
    return secret_file(folder / name, f"{text}\n")
