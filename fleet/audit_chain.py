"""The chain of the audit log: each line holds the SHA-256 of the one before it, so that none can be changed or taken out unseen.

::

    detail_sha256 = SHA-256(salt ‖ detail)                  the words themselves may be erased: without the salt, which goes
    sha256 = SHA-256([id, at, actor, action, subject,        with them, nothing can be guessed from their digest
                      detail_sha256, previous])              both as JSON with sorted keys, no spaces, ASCII
    previous = sha256 of the line before; 64 zeros in the first

What the chain cannot show: that its last lines were cut off, or that whoever holds the database wrote it anew from some line
on. For that its **head** (id and digest of the last line) is kept elsewhere, and compared: `fedge-fleet audit head`, the log
of the process, ``GET /v1/audit/head``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.errors import AuditBrokenError
from runtime.printable import printable

__all__ = ["GENESIS", "AuditLine", "Head", "canonical", "chain", "one_line", "verify"]

GENESIS: Final = "0" * 64
"""What the first line names as the one before it."""

LONGEST_TEXT: Final = 2000
"""Characters of one text of a detail: what is longer is cut, so that no caller makes a line of a megabyte."""


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """A line as it is stored and exported; `salt` is None where its detail was erased."""

    id: int
    at: float
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    salt: str | None
    detail_sha256: str
    previous: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last line of a log; id 0 and `GENESIS` where it is empty. Written ``17:3f…``."""

    id: int = 0
    sha256: str = GENESIS

    def __str__(self) -> str:
        """As `audit verify --head` takes it."""
        return f"{self.id}:{self.sha256}"


def chain(
    head: Head, *, at: float, actor: str, action: str, subject: str, detail: Mapping[str, Any], salt: str
) -> AuditLine:
    """The line that follows `head`; `detail` is JSON data, `salt` 16 random bytes in hex."""
    words = canonical(detail)
    detail_sha256 = hashlib.sha256(f"{salt}{words}".encode()).hexdigest()
    line = AuditLine(
        id=head.id + 1,
        at=float(at),
        actor=actor,
        action=action,
        subject=subject,
        detail=json.loads(words),
        salt=salt,
        detail_sha256=detail_sha256,
        previous=head.sha256,
        sha256="",
    )
    return AuditLine(**vars(line) | {"sha256": _digest(line)})


def canonical(value: object) -> str:
    """JSON that is the same for equal data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def one_line(value: Any) -> Any:
    """JSON data whose texts hold no control character and are not endless: what a stranger said cannot look like two lines."""
    if isinstance(value, str):
        return printable(value[:LONGEST_TEXT])
    if isinstance(value, Mapping):
        return {one_line(str(key)): one_line(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [one_line(item) for item in value]
    return value


def verify(lines: Iterable[AuditLine], known: Iterable[Head] = ()) -> Head:
    """Read a log from its first line to its last and return its head.

    Args:
        lines: all of them, by id.
        known: heads that were kept elsewhere; each must be a line of this log.

    Raises:
        AuditBrokenError: names the first line that does not fit, and how.
    """
    head, wanted = Head(), set(known) - {Head()}
    erased: dict[str, int] = {}  # device → the first line without words that it caused
    for line in lines:
        _check(line, head)
        if line.salt is None:
            erased.setdefault(_caused_by(line), line.id)
        elif line.action == "device_erased":
            erased.pop(line.subject, None)
        head = Head(id=line.id, sha256=line.sha256)
        wanted.discard(head)
        if any(one.id == line.id for one in wanted):
            raise AuditBrokenError(
                f"line {line.id} is not the one whose digest was kept: the log was written anew up to there"
            )
    if erased:
        device, number = min(erased.items(), key=lambda item: item[1])
        raise AuditBrokenError(
            f"line {number} has lost its words, and no later line says that {device!r} was erased"
        )
    if wanted:
        first = min(one.id for one in wanted)
        how = (
            f"it ends with line {head.id}: its end was cut off"
            if first > head.id
            else "that line is not there"
        )
        raise AuditBrokenError(f"a head of line {first} was kept, but in this log {how}")
    return head


def _check(line: AuditLine, head: Head) -> None:
    if line.id <= head.id:
        raise AuditBrokenError(f"line {line.id} comes after line {head.id}: lines were moved")
    if line.previous != head.sha256:
        raise AuditBrokenError(
            f"line {line.id} does not follow line {head.id}: the one between them, or the beginning, is gone or was changed"
        )
    if line.sha256 != _digest(line):
        raise AuditBrokenError(f"line {line.id} is not what was written: its digest does not fit")
    if line.salt is None:
        if line.detail:
            raise AuditBrokenError(
                f"line {line.id} has words without their salt: nothing shows that they are its own"
            )
    elif line.detail_sha256 != hashlib.sha256(f"{line.salt}{canonical(line.detail)}".encode()).hexdigest():
        raise AuditBrokenError(
            f"line {line.id} says something else than what was written: its detail was changed"
        )


def _caused_by(line: AuditLine) -> str:
    """The device whose erasure empties this line."""
    return line.subject if line.actor == "fleet" else line.actor.removeprefix("device:")


def _digest(line: AuditLine) -> str:
    fields = [line.id, line.at, line.actor, line.action, line.subject, line.detail_sha256, line.previous]
    return hashlib.sha256(canonical(fields).encode()).hexdigest()
