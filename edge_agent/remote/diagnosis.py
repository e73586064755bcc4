"""The bundle that `diagnose` sends: what a person would have looked at on the device, as gzip-compressed JSON.

Log lines, state, settings, versions, disk and memory. Never a secret: what looks like one is left out, and so is every
text that is known to be one. Never a window: a list of more than a few numbers is left out, whoever put it there, and so
are numbers in a row within a text (`edge_agent.window_texts`). What does not fit is cut, the oldest log lines first, and
`cut` in the bundle says what.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.health import memory_pss_bytes
from edge_agent.remote.log_ring import LogRing
from edge_agent.settings import Settings
from edge_agent.version import AGENT_VERSION
from edge_agent.window_texts import LEFT_OUT, without_windows
from protocol.limits import MAX_REPORT_CHARS
from runtime.durable_files import read_bytes

__all__ = ["MAX_BUNDLE_BYTES", "Diagnosis", "redacted"]

MAX_BUNDLE_BYTES: Final = MAX_REPORT_CHARS // 4 * 3
"""Compressed: what fits one message as base64."""
_MOST_NUMBERS: Final = 12
"""In a list: the averages and counts of our state files are fewer, a window's samples are more."""
_LONGEST_TEXT: Final = 2000
_SECRET_KEY: Final = re.compile(
    r"pass(word|phrase)?$|passwd|secret|token$|credential|api_?key|private|^key$", re.IGNORECASE
)
_SECRET_TEXT: Final = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
    re.compile(r"(?<=://)[^/@\s]+@"),
    re.compile(r"(?i)\bbearer\s+[\w.~+/=-]+"),
    re.compile(r"(?i)\b(password|passwd|secret|token|api_?key)(\s*[=:]\s*)\S+"),
    re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"),
)


class Diagnosis:
    """Makes bundles.

    Args:
        settings: in force at start; their files are named, never read.
        ring: the log.
    """

    def __init__(self, settings: Settings, ring: LogRing) -> None:
        self._settings, self._ring = settings, ring

    def make(self) -> tuple[str, str]:
        """The bundle as base64, and a sentence about it."""
        content, cut = self.bundle()
        about = "; ".join([f"{len(content)} bytes", *(f"cut: {what}" for what in cut)])
        return base64.b64encode(content).decode(), about

    def bundle(self) -> tuple[bytes, list[str]]:
        """The compressed bundle of at most `MAX_BUNDLE_BYTES`, and what was cut."""
        paths = self._settings.paths
        parts: dict[str, Callable[[], object]] = {
            "versions": _versions,
            "settings": lambda: msgspec.to_builtins(self._settings, enc_hook=str),
            "status": lambda: _json_file(paths.status),
            "counters": lambda: _json_file(paths.counters),
            "install": lambda: _json_file(paths.install_journal),
            "commands": lambda: _json_file(paths.commands),
            "disk": lambda: _disk(self._settings.state_dir),
            "memory": _memory,
        }
        document = {name: redacted(_told(part)) for name, part in parts.items()}
        lines = [_clean(line) for line in self._ring.lines()]
        cut = [f"{self._ring.dropped} older log lines"] if self._ring.dropped else []
        content = _packed(document, lines, cut)
        kept = lines
        while len(content) > MAX_BUNDLE_BYTES and kept:
            kept = kept[(len(kept) + 1) // 2 :]
            content = _packed(document, kept, [*cut, f"{len(lines) - len(kept)} of {len(lines)} log lines"])
        cut += [f"{len(lines) - len(kept)} of {len(lines)} log lines"] if len(kept) < len(lines) else []
        for name in sorted(document, key=lambda name: -len(json.dumps(document[name]))):
            if len(content) <= MAX_BUNDLE_BYTES:
                break
            document[name] = LEFT_OUT
            cut.append(f"all of {name}")
            content = _packed(document, kept, cut)
        return content, cut


def redacted(value: Any) -> Any:
    """A JSON value without what looks like a secret or like a window."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, Mapping):
        return {
            _clean(str(key)): LEFT_OUT
            if isinstance(part, str | bytes) and part and _SECRET_KEY.search(str(key))
            else redacted(part)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        if len(value) > _MOST_NUMBERS and any(isinstance(part, int | float | list | tuple) for part in value):
            return f"{LEFT_OUT[:-1]}: {len(value)} values)"
        return [redacted(part) for part in value]
    return value


def _clean(text: str) -> str:
    for pattern in _SECRET_TEXT:
        text = pattern.sub(LEFT_OUT, text)
    text = without_windows(text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"


def _packed(document: Mapping[str, object], lines: list[str], cut: list[str]) -> bytes:
    whole = {"format": 1, **document, "cut": cut, "log": lines}
    return gzip.compress(json.dumps(whole, ensure_ascii=False, default=str).encode(), mtime=0)


def _told(part: Callable[[], object]) -> object:
    try:
        return part()
    except Exception as error:  # noqa: BLE001 - what is broken is what somebody wants to hear of
        return f"cannot be told: {type(error).__name__}: {error}"


def _json_file(path: Path) -> object:
    content = read_bytes(path)
    return None if content is None else msgspec.json.decode(content)


def _versions() -> dict[str, object]:
    return {
        "agent": AGENT_VERSION,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "msgspec": msgspec.__version__,
    }


def _disk(state_dir: Path) -> dict[str, object]:
    usage = shutil.disk_usage(state_dir)
    files = {
        entry.name: entry.stat().st_size
        for entry in sorted(os.scandir(state_dir), key=lambda e: e.name)[:100]
    }
    return {"total_bytes": usage.total, "free_bytes": usage.free, "state_directory": files}


def _memory() -> dict[str, object]:
    found: dict[str, object] = {"pss_bytes": memory_pss_bytes()}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in {"MemTotal", "MemAvailable", "SwapTotal", "SwapFree"}:
            found[name] = rest.strip()
    found["load"] = os.getloadavg()
    return found
