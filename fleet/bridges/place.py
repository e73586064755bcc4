"""How far a bridge has come: one small file, written durably after what it stands for is delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runtime.durable_files import read_bytes, write_durably
from runtime.errors import SettingsError

__all__ = ["Place"]


class Place:
    """A JSON object in `path` under the name of one `kind` of bridge.

    Raises:
        SettingsError: the file is another bridge's, or none of ours.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        content = read_bytes(path)
        try:
            held: Any = {} if content is None else msgspec.json.decode(content)
        except msgspec.DecodeError:
            held = None
        if not isinstance(held, dict) or held.get("bridge", kind) != kind:
            raise SettingsError(
                f"{path} is not the place of a bridge to {kind}; give another file, or delete it to begin anew"
            )
        self._held: dict[str, Any] = held

    def get(self, name: str, otherwise: Any = None) -> Any:
        """What is noted under `name`."""
        return self._held.get(name, otherwise)

    def note(self, **changes: Any) -> None:
        """Keep these durably, with what is there."""
        self._held = self._held | changes | {"bridge": self._kind}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, msgspec.json.encode(self._held), mode=0o600)
