"""What this package raises, grouped by who must act.

::

    ServiceError
    └── AccessError                  whoever called
        ├── UnauthenticatedError     401  no token, or one that nobody here issued or enrolled
        └── ForbiddenError           403  known, but not allowed to do this
"""

from __future__ import annotations

__all__ = ["AccessError", "ForbiddenError", "ServiceError", "UnauthenticatedError"]


class ServiceError(Exception):
    """Root of everything this package raises."""


class AccessError(ServiceError):
    """This caller may not do this."""


class UnauthenticatedError(AccessError):
    """No token, or a token nobody here issued or enrolled."""


class ForbiddenError(AccessError):
    """The caller is known but its role or state does not allow this."""
