"""Keeps every byte of every request that reaches an aggregator's Fleet API, and finds secrets in them.

The recorder stands between TLS and the first line of the aggregator's own code, so refused and malformed requests are kept too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregator.flower import flower_internals
from protocol.errors import IdentityError
from protocol.questions import ASSESS, FIT
from protocol.secure_sum import messages
from protocol.signed_requests import REQUEST_HEADER, read_request

Windows = NDArray[np.uint64]

SHORT: Final = 8
"""Bytes of a window of numbers: two neighbours of float32 or of words, or one float64."""

LONG: Final = 32
"""Bytes of a window of counts, which are mostly zeros: a short one would be found anywhere."""

TELLING: Final = 5
"""Different bytes that a short window needs to be one vector's and not anybody's."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One request: the fingerprint of the key that it names, its path, everything it said beside its body, and the body."""

    key: str
    path: str
    head: bytes
    body: bytes


@dataclass
class Recorder:
    """An ASGI application around the aggregator's."""

    requests: list[Recorded] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def around(self, make_app: Callable[..., Any]) -> Callable[..., Any]:
        """A maker of apps whose requests are kept."""
        return lambda *arguments, **options: self._recording(make_app(*arguments, **options))

    def _recording(self, app: Any) -> Any:
        async def recording(scope: Any, receive: Any, send: Any) -> None:
            body = bytearray()

            async def heard() -> Any:
                event = await receive()
                body.extend(event.get("body", b""))
                return event

            try:
                await app(scope, heard, send)
            finally:
                self._keep(scope, bytes(body))

        return recording

    def _keep(self, scope: Any, body: bytes) -> None:
        headers = dict(scope["headers"])
        try:
            signed = headers.get(REQUEST_HEADER.encode(), b"").decode("latin-1")
            key = read_request(signed, scope["method"], scope["path"]).claims.device_key
        except IdentityError:
            key = ""
        lines = [scope["path"].encode(), scope["query_string"]]
        lines += [name + b": " + value for name, value in scope["headers"]]
        with self._lock:
            self.requests.append(Recorded(key=key, path=scope["path"], head=b"\n".join(lines), body=body))


def masked_words(requests: Iterable[Recorded]) -> dict[str, bytes]:
    """The packed words of each device that sent some, by its key."""
    found = {}
    for request in requests:
        if request.path.endswith("push-messages"):
            pushed = flower_internals.MessageProto.FromString(request.body)
            reply = flower_internals.message_from_proto(pushed)
            if reply.metadata.message_type in {FIT, ASSESS} and not reply.has_error():
                content = reply.content.config_records["sum"]["message"]
                found[request.key] = messages.decode(content, messages.MaskedInput).words
    return found


def everything(requests: Iterable[Recorded], *, without: Iterable[bytes] = ()) -> bytes:
    """All that was sent, one request after the other; `without` some parts, which must be there."""
    content = b"\n\n".join(request.head + b"\n\n" + request.body for request in requests)
    for part in without:
        assert part in content
        content = content.replace(part, b"")
    return content


def number_windows(vectors: Iterable[NDArray[Any]]) -> Windows:
    """Every two neighbours of vectors, in both byte orders, where they are telling."""
    return np.unique(np.concatenate([_telling(form) for vector in vectors for form in _byte_orders(vector)]))


def count_windows(vectors: Iterable[NDArray[Any]]) -> Windows:
    """Every eight neighbours of vectors that are not all zero, in both byte orders."""
    return np.unique(np.concatenate([_nonzero(form) for vector in vectors for form in _byte_orders(vector)]))


def found_windows(sent: bytes, wanted: Windows, size: int) -> int:
    """How many of the wanted windows occur in what was sent, at any offset."""
    return int(np.isin(wanted, _windows(sent, size)).sum())


def found_scalars(sent: bytes, scalars: Mapping[str, float]) -> list[str]:
    """Which of the scalars occur as a binary number of any usual width and order, or in digits."""
    found = []
    for name, value in scalars.items():
        forms = [np.array([value], kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8")]
        if value == int(value):
            forms += [np.array([int(value)], kind).tobytes() for kind in ("<u4", ">u4", "<u8", ">u8")]
        else:
            forms.append(f"{value:.6g}".encode())
        found += [name] * any(form in sent for form in forms)
    return found


def _byte_orders(vector: NDArray[Any]) -> list[bytes]:
    kind = vector.dtype.str[1:]
    return [vector.astype(f"{order}{kind}").tobytes() for order in "<>"]


def _telling(content: bytes) -> Windows:
    aligned = _windows(content, SHORT)[::4].copy()
    bytes_of = np.sort(aligned.view(np.uint8).reshape(-1, SHORT), axis=1)
    return aligned[1 + (np.diff(bytes_of, axis=1) != 0).sum(axis=1) >= TELLING]


def _nonzero(content: bytes) -> Windows:
    aligned = _windows(content, LONG)[::4]
    return aligned[aligned != 0]


def _windows(content: bytes, size: int) -> Windows:
    """A 64-bit number for each window: its eight bytes, or a combination of its four times eight."""
    raw = np.frombuffer(content, np.uint8)
    eights = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(raw, 8)).view("<u8").ravel()
    if size == SHORT:
        return eights
    factors = np.random.default_rng(1).integers(1 << 62, 1 << 63, size // 8, np.uint64) | np.uint64(1)
    count = len(raw) - size + 1
    parts = [factor * eights[8 * i : 8 * i + count] for i, factor in enumerate(factors)]
    return np.sum(parts, axis=0, dtype=np.uint64)
