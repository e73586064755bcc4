"""A function of ours that reads what came from outside, as the fuzzer feeds it; and hands that bring it what it takes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from mutations import Mutator

from service.json_bodies import read_json_body

__all__ = ["Parser", "document", "fed", "in_file", "text"]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """`call` reads bytes; `covers` are the functions that it reaches; `may_raise` is all that may come out of them."""

    name: str
    call: Callable[[bytes], object]
    covers: tuple[str, ...]
    samples: Sequence[bytes]
    may_raise: tuple[type[Exception], ...]
    own: tuple[Mutator, ...] = ()


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode("utf-8", "replace"))


def document(kind: type[msgspec.Struct]) -> Callable[[bytes], object]:
    """As `service.json_bodies` has it: JSON is read by the framework, the rest is ours."""

    def read(content: bytes) -> object:
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            return None  # told by the framework: 400 or 422
        return read_json_body(said, kind) if isinstance(said, dict) else None

    return read


def in_file(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def call(content: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(content)
            return read(path)

    return call


def fed(
    name: str,
    call: Callable[[bytes], object],
    samples: Sequence[bytes],
    may_raise: tuple[type[Exception], ...],
    *covers: str,
    own: tuple[Mutator, ...] = (),
) -> Parser:
    return Parser(name=name, call=call, covers=covers, samples=samples, may_raise=may_raise, own=own)
