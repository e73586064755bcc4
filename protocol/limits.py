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

MAX_INTEGER: Final = (1 << 53) - 1
"""Any integer of a message: what every JSON reader keeps exactly (RFC 8259, section 6), and any database holds."""

MAX_RANGES: Final = 2000
"""Ranges in one acknowledgement: each takes at most 45 bytes of JSON, so that they stay well under a payload."""

MAX_REFUSED: Final = 256
"""Refused events in one acknowledgement: with a reason of 200 characters each they fit beside the ranges."""

MAX_OUTSTANDING: Final = 16
"""Commands in one message: one of each action is outstanding at most, and a later build may know more actions."""

MAX_SETTINGS: Final = 32
"""Settings in one message; this build knows a handful."""

MAX_REPORT_CHARS: Final = MAX_PAYLOAD_BYTES - 16 * 1024
"""Base64 of what a command fetched: beside it stand a reason of 2000 characters, at up to six bytes, and the envelope."""
