"""Which of the fleet's errors is which HTTP status. An error that is not named has its nearest parent's."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fleet.errors import (
    BadRequestError,
    ConflictError,
    NotAcceptableError,
    NotFoundError,
    TooOftenError,
    UnacceptableError,
    UnavailableError,
)
from protocol.errors import ProtocolError
from runtime.errors import StorageError
from service.problems import StatusTable

__all__ = ["STATUSES"]

STATUSES: Final[StatusTable] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    NotAcceptableError: HTTPStatus.NOT_ACCEPTABLE,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    TooOftenError: HTTPStatus.TOO_MANY_REQUESTS,
    UnacceptableError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ProtocolError: HTTPStatus.UNPROCESSABLE_ENTITY,  # a name or message that is not valid
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageError: HTTPStatus.INTERNAL_SERVER_ERROR,  # a bundle that is gone, a disk that is full: worth saying
}
