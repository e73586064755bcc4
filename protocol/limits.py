"""How large anything from another machine may be, and why. Checked before anything is parsed.

MQTT limits follow AWS IoT Core, the narrowest common broker: 128 KB a payload, and 7 topic levels where ours have 5
(`protocol.topics`).
"""

from __future__ import annotations

from typing import Final

MAX_PAYLOAD_BYTES: Final = 128 * 1024
"""One MQTT payload. AWS IoT Core refuses more."""

MAX_NESTING_DEPTH: Final = 12
"""Open brackets in a JSON message; our deepest schema needs 6. Stops stack-exhausting payloads."""

MAX_NAME_CHARS: Final = 64
"""Tenant, device and family names."""

MAX_BUNDLE_BYTES: Final = 64 * 1024 * 1024
"""A whole model bundle; ours are ~100 KB, a Coral holds 8 MB."""

MAX_MANIFEST_BYTES: Final = 256 * 1024
"""The manifest at a bundle's head."""

MAX_BUNDLE_FILES: Final = 16
"""Files in one bundle; format 1 has at most seven."""
