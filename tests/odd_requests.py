"""Requests as no program of ours sends them: what a door makes of each is a refusal, or an end."""

from __future__ import annotations

__all__ = ["head", "odd_requests"]


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


def odd_requests(path: str) -> dict[str, bytes]:
    """Strangers' requests for something behind `path`, by what is odd about each."""
    return {
        "a NUL in the path": head(f"{path}%00"),
        "a path beyond ASCII": f"POST {path}".encode() + b"\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        "a whole URL": head(f"https://x{path}"),
        "a path that climbs": head(f"/healthz/..{path}"),
        "a path in other letters": head(f"/%68ealthz/%2e%2e{path}"),
        "CONNECT": head("x:1", method="CONNECT"),
        "no method of anybody": head(path, method="BREW"),
        "HTTP/1.0": f"POST {path} HTTP/1.0\r\n\r\n".encode(),
        "HTTP/0.9": b"GET /\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/3.7": f"GET {path} HTTP/3.7\r\nhost: x\r\n\r\n".encode(),
        "a web socket": head(path, "upgrade: websocket", "connection: upgrade", method="GET"),
        "an endless chunk extension": head(path, "transfer-encoding: chunked") + b"1;" + b"a" * 200_000,
        "a header of three megabytes": f"POST {path} HTTP/1.1\r\nhost: x\r\nx: ".encode() + b"a" * 3_000_000,
        "9,000 headers": f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode() + b"a: b\r\n" * 9000 + b"\r\n",
        "9,000 cookies": f"POST {path} HTTP/1.1\r\nhost: x\r\ncookie: ".encode()
        + b"a=b; " * 9000
        + b"\r\n\r\n",
        "2,000 requests at once": head(path) * 2000,
        "two lengths": head(path, "content-length: 1", "content-length: 2") + b"ab",
        "a negative length": head(path, "content-length: -1"),
        "a folded header": f"POST {path} HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n".encode(),
        "a body to be asked for": head(path, "expect: 100-continue", "content-length: 9999999999"),
        "two names": head(path, "authorization: Bearer fo_a", "authorization: Bearer fo_b"),
        "a name of a megabyte": head(path, "authorization: Bearer " + "fo_a" * 250_000),
        "a name with a NUL": head(path, "authorization: Bearer fo_\x00"),
    }
