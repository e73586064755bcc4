"""Bytes from outside, as somebody who knows the format would spoil them: a sample, changed where it hurts. The same seed, the same bytes.

Some changes know nothing of a format (flip, cut, repeat, splice). Others read it, change a value inside and write it again, so that
what is spoilt lies behind every check of length and form: JSON, MessagePack, a JWT's parts, a zip archive, a PEM's DER.
"""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

__all__ = ["Mutator", "mutate"]

Mutator = Callable[[bytes, random.Random], bytes]

WORDS: Final = (
    b"",
    b"\x00",
    b"\xff" * 8,
    b"\x80",
    b"{",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"]",
    b"\r\n",
    b"%00",
    b"../" * 8,
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"1e999",
    b"-0",
    b"9" * 5000,
    b"NaN",
    b"Infinity",
    b"null",
    b"=",
    b"(" * 3000,
    b"\\",
    b'"',
    b"A" * 70_000,
)  # fmt: skip - a list of bytes
VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**400,
    1e308,
    -1e308,
    5e-324,
    0.1,
    "",
    "\x00",
    "\ud800",
    "\u2028",
    "\x1b[31m",
    "a" * 70_000,
    "../../etc/passwd",
    "%s%n",
    "=cmd|' /C calc'!A0",
    [],
    {},
    [[]],
    {"": ""},
    [0] * 5000,
)  # fmt: skip - a list of values


def _deep(depth: int) -> Any:
    found: Any = 0
    for _ in range(depth):
        found = [found]
    return found


def flip(content: bytes, chance: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    """A part is missing."""
    first, last = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[last:] if chance.random() < 0.5 else content[:first]


def repeat(content: bytes, chance: random.Random) -> bytes:
    """A part is there more than once."""
    first, last = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    times = chance.choice((2, 3, 50))
    return (
        content[:first] + content[first:last] * min(times, 1 + 200_000 // (last - first + 1)) + content[last:]
    )


def insert(content: bytes, chance: random.Random) -> bytes:
    """Something stands where nothing did."""
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(WORDS) + content[at:]


def _inside(value: Any, chance: random.Random) -> Any:
    """`value` with one thing in it changed."""
    goes_in = chance.random() < 0.85
    match value:
        case dict() if value and goes_in:
            return _inside_table(value, chance)
        case list() if value and goes_in:
            at = chance.randrange(len(value))
            changed = chance.choice(
                ([], value[at : at + 1] * 300, [_inside(value[at], chance)], [_inside(value[at], chance)])
            )
            return [*value[:at], *changed, *value[at + 1 :]]
        case bytes():
            return chance.choice((flip, cut, repeat, insert))(value, chance)
        case str() if goes_in and chance.random() < 0.5:
            return insert(value.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
        case _:
            return _deep(chance.choice((5, 20, 900))) if chance.random() < 0.1 else chance.choice(VALUES)


def _inside_table(value: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    key = chance.choice(list(value))
    match chance.randrange(6):
        case 0:
            return {k: v for k, v in value.items() if k != key}
        case 1:
            return value | {chance.choice(("x", "\x00", "__proto__", "a" * 5000)): chance.choice(VALUES)}
        case _:
            return value | {key: _inside(value[key], chance)}


def json_value(content: bytes, chance: random.Random) -> bytes:
    """JSON that parses, and means something else."""
    return json.dumps(_inside(json.loads(content), chance)).encode("utf-8", "surrogatepass")


def json_text(content: bytes, chance: random.Random) -> bytes:
    """JSON with a key twice, or something deep behind it."""
    json.loads(content)
    if chance.random() < 0.5 and content.startswith(b"{"):
        return b'{"x":' + b"[" * 40_000 + b"]" * 40_000 + b"," + content[1:]
    return content.replace(b"{", b"{" + chance.choice((b'"a":1,', b'"a":1,"a":2,', b" ")), 1)


def msgpack_value(content: bytes, chance: random.Random) -> bytes:
    """MessagePack that parses, and means something else."""
    return msgspec.msgpack.encode(_inside(msgspec.msgpack.decode(content), chance))


def jwt_part(content: bytes, chance: random.Random) -> bytes:
    """One of the parts between dots, changed inside."""
    head, _, text = content.rpartition(b" ")
    parts = text.split(b".")
    if len(parts) < 2:
        raise ValueError("no parts")
    at = chance.randrange(len(parts))
    inside = base64.urlsafe_b64decode(parts[at] + b"==")
    try:
        inside = json_value(inside, chance)
    except ValueError:
        inside = flip(inside, chance)
    parts[at] = base64.urlsafe_b64encode(inside).rstrip(b"=")
    return (head + b" " if head else b"") + b".".join(parts)


def zip_member(content: bytes, chance: random.Random) -> bytes:
    """An archive whose members are changed, renamed, doubled, or far larger than they were."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before:
        members = [(name, before.read(name)) for name in before.namelist()]
    at = chance.randrange(len(members))
    name, inside = members[at]
    match chance.randrange(5):
        case 0:
            members[at] = (chance.choice(("../x.npy", "/x.npy", "", "a" * 300 + ".npy")), inside)
        case 1:
            members.append(members[at])
        case 2:
            members[at] = (name, inside + b"\x00" * 30_000_000)
        case _:
            members[at] = (name, chance.choice((flip, cut, insert))(inside, chance))
    with zipfile.ZipFile(made, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as after:
        for name, inside in members:
            after.writestr(name, inside)
    return made.getvalue()


def pem_der(content: bytes, chance: random.Random) -> bytes:
    """A PEM whose DER is changed and whose border is not."""
    lines = content.decode("ascii").strip().splitlines()
    if not lines[0].startswith("-----BEGIN"):
        raise ValueError("no PEM")
    der = base64.b64decode("".join(lines[1:-1]))
    der = chance.choice((flip, cut, repeat))(der, chance)
    return "\n".join([lines[0], base64.encodebytes(der).decode().strip(), lines[-1], ""]).encode()


BLIND: Final[tuple[Mutator, ...]] = (flip, cut, repeat, insert)
KNOWING: Final[tuple[Mutator, ...]] = (json_value, json_text, msgpack_value, jwt_part, zip_member, pem_der)


def mutate(
    samples: Sequence[bytes], chance: random.Random, *, own: Sequence[Mutator] = (), most_bytes: int = 400_000
) -> bytes:
    """One of `samples`, changed once or more; `own` are changes that know this format and no other."""
    content = chance.choice(samples)
    for _ in range(chance.choice((1, 1, 2, 4))):
        change = chance.choice((*BLIND, *KNOWING, *own, *own))
        try:
            content = change(content, chance)
        except Exception:  # noqa: BLE001 - it is of a format that this is not, or no longer
            content = chance.choice(BLIND)(content, chance)
    if chance.random() < 0.05 and len(samples) > 1:
        other = chance.choice(samples)
        content = content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]
    return content[:most_bytes]
