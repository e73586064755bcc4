"""E-mail by SMTP, over TLS always, as plain text: nothing in it can be markup.

Message-ID is the same each time that a message is sent, so a server or reader that compares them shows it once; what a storm says later
refers to what it said first, so that they are one conversation. Some of the addresses being refused is a delivery with a remark.

Source: RFC 5321 (4yz: later, 5yz: never), RFC 5322 section 3.6.4, RFC 3834 (Auto-Submitted).
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from fleet.alert_settings import EmailReceiver
from fleet.alerts.digest import digest_lines
from fleet.alerts.messages import Message
from fleet.alerts.outbox import Delivered, Event, Later, Outcome, Refused
from fleet.alerts.receivers.port import tls_context
from runtime.printable import printable
from service.secret_files import read_secret

__all__ = ["EmailSender", "mail_of"]

STEP_S: Final = 15.0
"""For each answer of the server."""

LONGEST_S: Final = 60.0
"""For all of them."""

SUBMISSION, SUBMISSIONS = 587, 465
_PERMANENT: Final = 500
_WRONG_LOGIN: Final = 535


class EmailSender:
    """See the module.

    Args:
        receiver: its settings.
        now: Unix seconds.
    """

    at_once = 100

    def __init__(self, receiver: EmailReceiver, now: Callable[[], float] = time.time) -> None:
        self._receiver, self._now = receiver, now

    async def send(self, messages: Sequence[Message]) -> Outcome:
        """See `Sender.send`."""
        password_file = self._receiver.password_file
        password = read_secret(password_file, "password_file") if password_file else ""
        mail = mail_of(messages, self._receiver, self._now())
        sockets: list[socket.socket] = []
        try:
            async with asyncio.timeout(LONGEST_S):
                return await asyncio.to_thread(self._hand_over, mail, password, sockets)
        except TimeoutError:
            return Later(f"the mail server was not done within {LONGEST_S:.0f} s")
        finally:
            for one in sockets:
                one.close()  # whoever dribbles keeps no thread

    def _hand_over(self, mail: EmailMessage, password: str, sockets: list[socket.socket]) -> Outcome:
        try:
            with self._connected(sockets) as server:
                if self._receiver.username is not None:
                    server.login(self._receiver.username, password)
                refused = server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            return _judged(max(error.recipients.values(), key=lambda answer: -answer[0]))
        except smtplib.SMTPResponseException as error:
            answer = error.smtp_code, error.smtp_error
            return _judged(answer, is_of_receiver=isinstance(error, smtplib.SMTPAuthenticationError))
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Later(printable(f"not reached: {type(error).__name__} {error}"))
        return Delivered(f"not to {', '.join(sorted(refused))}: refused" if refused else "")

    def _connected(self, sockets: list[socket.socket]) -> smtplib.SMTP:
        settings = self._receiver
        context = tls_context(settings.ca_file)
        if settings.tls == "implicit":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                settings.host, settings.port or SUBMISSIONS, timeout=STEP_S, context=context
            )
            _keep(server, sockets)
            return server
        server = smtplib.SMTP(settings.host, settings.port or SUBMISSION, timeout=STEP_S)
        try:
            _keep(server, sockets)
            server.starttls(context=context)
            _keep(server, sockets)
        except BaseException:
            server.close()
            raise
        return server


def mail_of(messages: Sequence[Message], receiver: EmailReceiver, now: float) -> EmailMessage:
    """One mail for one message, or for many."""
    first = messages[0]
    domain = receiver.sender.partition("@")[2]
    mail = EmailMessage()
    mail["From"], mail["To"] = receiver.sender, ", ".join(receiver.to)
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    mail["Auto-Submitted"] = "auto-generated"
    if len(messages) == 1:
        subject, lines = f"[{first.severity}] {first.title}", [*first.facts, first.url]
        mail["Message-ID"] = f"<{first.id}@{domain}>"
        if first.event is not Event.OPENED:
            mail["In-Reply-To"] = mail["References"] = f"<{first.dedup_key}.{Event.OPENED}@{domain}>"
        mail["X-Fedge-Alert"] = first.dedup_key
    else:
        subject, lines = f"{len(messages)} alerts of {first.tenant} at once", digest_lines(messages)
        mail["Message-ID"] = f"<{first.id}.{len(messages)}@{domain}>"
    mail["Subject"] = printable(subject)[:250]
    mail.set_content("\n".join([*(line for line in lines if line), ""]))
    return mail


def _keep(server: smtplib.SMTP, sockets: list[socket.socket]) -> None:
    if server.sock is not None:
        sockets.append(server.sock)


def _judged(answer: tuple[int, bytes | str], *, is_of_receiver: bool = False) -> Outcome:
    code, said = answer
    words = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    reason = printable(f"the mail server answered {code} {words}"[:200])
    if code >= _PERMANENT:
        return Refused(reason, is_of_receiver=is_of_receiver or code == _WRONG_LOGIN)
    return Later(reason)
