"""Everything that can go wrong on a device, grouped by who must act.

::

    EdgeAgentError
    ├── SettingsError            the person who wrote agent.toml must mend it
    ├── SourceError              the sensor or the recording does not deliver (edge_agent.sources)
    ├── StorageError             the device's disk: full, read-only, or a file of ours that is damaged
    │   ├── OutboxError          the outbox database cannot be read or written
    │   └── SampleBufferError         the sample buffer holds rows of another shape, or cannot be written
    ├── LinkError                the road to the broker: refused, wrong password, no TLS where it is needed
    └── NotEnrolledError         the device has no identity yet: `fedge-agent enrol`
"""

from __future__ import annotations

__all__ = [
    "SampleBufferError",
    "EdgeAgentError",
    "LinkError",
    "NotEnrolledError",
    "OutboxError",
    "SettingsError",
    "SourceError",
    "StorageError",
]


class EdgeAgentError(Exception):
    """Root of every failure in this package."""


class SettingsError(EdgeAgentError):
    """The configuration cannot be used; the message names the key, its value, and what would be valid."""


class SourceError(EdgeAgentError):
    """The source cannot be opened or delivers something that is not a window."""


class StorageError(EdgeAgentError):
    """A file of the state directory cannot be read or written."""


class OutboxError(StorageError):
    """The outbox database cannot be used; inference goes on, messages are counted as lost."""


class SampleBufferError(StorageError):
    """The sample buffer cannot take or give rows."""


class LinkError(EdgeAgentError):
    """The broker cannot be used as configured."""


class NotEnrolledError(EdgeAgentError):
    """The state directory holds no device identity."""
