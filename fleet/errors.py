"""Everything the fleet service refuses or cannot do, grouped by who must act.

::

    FleetError
    ├── CallerError                  whoever called must change the request; becomes a 4xx problem
    │   ├── BadRequestError          400  the request does not mean anything here
    │   │   └── QuerySyntaxError     400  a device query that does not parse
    │   ├── UnauthenticatedError     401  no token, or one we do not know
    │   ├── ForbiddenError           403  known, but not allowed to do this
    │   ├── NotFoundError            404  no such device, release, rollout, ...
    │   ├── ConflictError            409  contradicts what the fleet already holds
    │   ├── PreconditionError        412  the resource changed since the caller read it
    │   ├── TooLargeError            413  the body exceeds its limit
    │   ├── RangeError               416  a byte range outside the file
    │   └── UnacceptableError        422  well-formed but refused (an untrusted bundle, an invalid rollout)
    ├── SettingsError                whoever configured this must mend fleet.toml
    ├── StartError                   the service cannot start here (port in use, unreadable certificate)
    ├── StorageError                 we, or our disk: what should be stored is missing or damaged
    └── ClientError                  the command line client could not get its answer
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadRequestError",
    "CallerError",
    "ClientError",
    "ConflictError",
    "FleetError",
    "ForbiddenError",
    "NotFoundError",
    "PreconditionError",
    "QuerySyntaxError",
    "RangeError",
    "SettingsError",
    "StartError",
    "StorageError",
    "TooLargeError",
    "UnacceptableError",
    "UnauthenticatedError",
]


class FleetError(Exception):
    """Root of everything this package raises."""


class CallerError(FleetError):
    """The request is refused; `status` and `title` become the RFC 9457 problem, the message its detail."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"


class BadRequestError(CallerError):
    """The request does not mean anything here."""


class QuerySyntaxError(BadRequestError):
    """A device query does not parse; the message names the position and what would be valid."""

    title: ClassVar[str] = "Device query not understood"


class UnauthenticatedError(CallerError):
    """No token, or a token nobody here issued or enrolled."""

    status: ClassVar[int] = 401
    title: ClassVar[str] = "Not authenticated"


class ForbiddenError(CallerError):
    """The caller is known but its role or state does not allow this."""

    status: ClassVar[int] = 403
    title: ClassVar[str] = "Not allowed"


class NotFoundError(CallerError):
    """There is no such resource."""

    status: ClassVar[int] = 404
    title: ClassVar[str] = "Not found"


class ConflictError(CallerError):
    """The request contradicts what the fleet already holds."""

    status: ClassVar[int] = 409
    title: ClassVar[str] = "Conflict"


class PreconditionError(CallerError):
    """The resource changed since the caller read it; read it again."""

    status: ClassVar[int] = 412
    title: ClassVar[str] = "Changed meanwhile"


class TooLargeError(CallerError):
    """The body exceeds its limit."""

    status: ClassVar[int] = 413
    title: ClassVar[str] = "Too large"


class RangeError(CallerError):
    """The byte range lies outside the file."""

    status: ClassVar[int] = 416
    title: ClassVar[str] = "Range not satisfiable"


class UnacceptableError(CallerError):
    """Well-formed, understood, and refused for what it says."""

    status: ClassVar[int] = 422
    title: ClassVar[str] = "Refused"


class SettingsError(FleetError):
    """fleet.toml is wrong; the message names the key, the value and what would be valid."""


class StartError(FleetError):
    """The service cannot start on this machine as configured."""


class StorageError(FleetError):
    """Something that should be stored is missing or damaged."""


class ClientError(FleetError):
    """The command line client could not reach the fleet, or the fleet refused."""
