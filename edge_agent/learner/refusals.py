"""Which of the twelve codes a failure becomes on its way to the aggregator: one table, and nothing else of it travels.

Every failure here was decided before this device's data were touched, or is FAILED. Words stay in the device's own log and account.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_agent.errors import PlainAnswerRefusedError, QuestionRefusedError
from protocol.errors import QuestionError
from protocol.refusals import RefusalCode
from protocol.secure_sum.errors import (
    AdvertisementError,
    AnnouncementMismatchError,
    BothListsError,
    CohortTooSmallError,
    GraphMismatchError,
    KeyAgreementError,
    RepeatedStageError,
    SplitViewError,
    StageOrderError,
    SumMessageError,
    SurvivorMismatchError,
    ThresholdTooLowError,
    TooFewSurvivorsError,
    UnknownDeviceError,
)

__all__ = ["code_of"]

_CODES: Final[Mapping[type[Exception], RefusalCode]] = {
    SumMessageError: RefusalCode.NOT_ASKED,
    QuestionError: RefusalCode.NOT_ASKED,
    AnnouncementMismatchError: RefusalCode.TERMS,
    UnknownDeviceError: RefusalCode.ROSTER,
    AdvertisementError: RefusalCode.ROSTER,
    KeyAgreementError: RefusalCode.ROSTER,
    CohortTooSmallError: RefusalCode.COHORT,
    ThresholdTooLowError: RefusalCode.COHORT,
    GraphMismatchError: RefusalCode.COHORT,
    TooFewSurvivorsError: RefusalCode.COHORT,
    SurvivorMismatchError: RefusalCode.COHORT,
    BothListsError: RefusalCode.COHORT,
    SplitViewError: RefusalCode.COHORT,
    RepeatedStageError: RefusalCode.ORDER,
    StageOrderError: RefusalCode.ORDER,
    PlainAnswerRefusedError: RefusalCode.PLAIN,
}


def code_of(failure: Exception) -> RefusalCode:
    """The code that crosses; FAILED for whatever is in no table: a disk, the fleet, a fault of ours.

    >>> code_of(CohortTooSmallError("the cohort has 2 devices")).value
    'COHORT'
    >>> code_of(MemoryError()).value
    'FAILED'
    """
    if isinstance(failure, QuestionRefusedError):
        return failure.code
    return _CODES.get(type(failure), RefusalCode.FAILED)
