"""Everything the fleet service refuses or cannot do, grouped by who must act.

::

    FleetError
    ├── CallerError                  whoever called must change the request; becomes a 4xx problem
    │   ├── BadRequestError          400  the request does not mean anything here
    │   │   └── QuerySyntaxError     400  a device query that does not parse
    │   ├── NotAcceptableError       406  the answer has a form that the caller cannot read
    │   ├── NotFoundError            404  no such device, release, rollout, ...
    │   ├── ConflictError            409  contradicts what the fleet already holds
    │   ├── TooOftenError            429  the same again, faster than anybody needs it
    │   └── UnacceptableError        422  well-formed but refused (an untrusted bundle, an invalid rollout)
    ├── NotLeaderError               nobody: another process leads now, and does what this one was about to do
    ├── UnavailableError             503  the road: what the fleet stands upon does not answer at present; asking again helps
    │   └── BrokerError                   the broker has not confirmed, or refused, an account
    └── AuditBrokenError             we: the audit log is not what was written; whoever holds the database must be asked

A database that is away is unavailable too, and SQLAlchemy's fault (`fleet.storage.outages`).
Who calls, and may they (401, 403), a start that fails and a command line without its answer are `service.errors`; settings that are wrong and a disk that
refuses or has lost something are `runtime.errors`.
"""

from __future__ import annotations

from runtime.errors import FedgeError

__all__ = [
    "AuditBrokenError",
    "BadRequestError",
    "BrokerError",
    "CallerError",
    "ConflictError",
    "FleetError",
    "NotAcceptableError",
    "NotFoundError",
    "NotLeaderError",
    "QuerySyntaxError",
    "TooOftenError",
    "UnacceptableError",
    "UnavailableError",
]


class FleetError(FedgeError):
    """Root of everything this package raises."""


class CallerError(FleetError):
    """The request is refused; the message becomes the detail of a problem document (see `fleet.api.statuses`)."""


class BadRequestError(CallerError):
    """The request does not mean anything here."""


class QuerySyntaxError(BadRequestError):
    """A device query does not parse; the message names the position and what would be valid."""


class NotAcceptableError(CallerError):
    """The answer has a form that the caller does not accept."""


class NotFoundError(CallerError):
    """There is no such resource."""


class ConflictError(CallerError):
    """The request contradicts what the fleet already holds."""


class TooOftenError(CallerError):
    """The caller asks for this faster than it can need it; the message says when to ask again."""


class UnacceptableError(CallerError):
    """Well-formed, understood, and refused for what it says."""


class UnavailableError(FleetError):
    """What the fleet stands upon does not answer at present: the same question, asked again later, may be answered."""


class BrokerError(UnavailableError):
    """The broker has not confirmed an account; what the fleet decided stands, and repeating the call waits anew."""


class NotLeaderError(FleetError):
    """This process no longer leads: what only a leader may write was not written; whoever leads now does it."""


class AuditBrokenError(FleetError):
    """The audit log's chain does not hold; the text names the first line that does not fit."""
