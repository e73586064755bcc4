"""What this package raises, grouped by who must act.

::

    ServiceError
    ├── AccessError                  whoever called
    │   ├── UnauthenticatedError     401  no token, or one that nobody here issued or enrolled
    │   └── ForbiddenError           403  known, but not allowed to do this
    ├── InvalidBodyError             422  whoever called: the body is JSON, but not what this call takes
    ├── InvalidQueryError            422  whoever called: the address asks for something that this call does not know
    ├── ChangedMeanwhileError        412  whoever called: somebody else has changed what they would overwrite
    ├── TokenChangeError             whoever typed it: a token that cannot be made, rotated or revoked like this
    ├── StartError                   whoever started it: an address in use, a certificate that cannot be used
    └── ClientError                  whoever typed it: a service could not be asked, or it refused

Settings that are wrong are `runtime.errors.SettingsError`.
"""

from __future__ import annotations

from runtime.errors import FedgeError

__all__ = [
    "AccessError",
    "ChangedMeanwhileError",
    "ClientError",
    "ForbiddenError",
    "InvalidBodyError",
    "InvalidQueryError",
    "ServiceError",
    "StartError",
    "TokenChangeError",
    "UnauthenticatedError",
]


class ServiceError(FedgeError):
    """Root of everything this package raises."""


class AccessError(ServiceError):
    """This caller may not do this."""


class UnauthenticatedError(AccessError):
    """No token, or a token nobody here issued or enrolled."""


class ForbiddenError(AccessError):
    """The caller is known but its role or state does not allow this."""


class InvalidBodyError(ServiceError):
    """The body is not what this call takes; the text says which key, what stands there, and what would be valid."""


class InvalidQueryError(ServiceError):
    """The query of the address is not what this call takes."""


class ChangedMeanwhileError(ServiceError):
    """What the request is about is not what the caller has seen; the text says to read it again."""


class TokenChangeError(ServiceError):
    """A token cannot be made, rotated or revoked as asked; the text says why, and what can be done."""


class StartError(ServiceError):
    """The service cannot start on this machine as configured."""


class ClientError(ServiceError):
    """A command line could not reach the service, or the service refused, or what was typed cannot be asked."""
