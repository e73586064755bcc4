"""The twelve words in which a device declines a question: all that a refusal says to the aggregator.

Which word it is follows from the question, from what this device has answered before and from its owner's limits, never from its
windows; a free text could not promise that. The device's own log and status say more; the aggregator explains a word to its operator
by `MEANINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["MEANINGS", "RefusalCode", "read_refusal", "write_refusal"]

_PREFIX: Final = "refused: "


class RefusalCode(StrEnum):
    """Why a device does not go on; the name travels."""

    NOT_ASKED = "NOT_ASKED"
    PROFILE = "PROFILE"
    ARRAYS = "ARRAYS"
    TERMS = "TERMS"
    ROSTER = "ROSTER"
    COHORT = "COHORT"
    NOISE = "NOISE"
    BUDGET = "BUDGET"
    SNAPSHOT = "SNAPSHOT"
    ORDER = "ORDER"
    PLAIN = "PLAIN"
    FAILED = "FAILED"


MEANINGS: Final[Mapping[RefusalCode, str]] = {
    RefusalCode.NOT_ASKED: "a message that no aggregator of this build sends: the builds differ, or it was damaged",
    RefusalCode.PROFILE: "another model or training profile than that of the release which a person approved there: install or approve it first",
    RefusalCode.ARRAYS: "arrays with other names or lengths, not finite, too large, or further from the approved release than its trust radius",
    RefusalCode.TERMS: "terms, question and arrays that do not belong together, or are not the ones announced",
    RefusalCode.ROSTER: "a device in the cohort that the fleet does not know, or keys that it did not sign",
    RefusalCode.COHORT: "too small a cohort or threshold, or one too like another that was answered: ask others, or the same again",
    RefusalCode.NOISE: "less noise than the owner of the device wants",
    RefusalCode.BUDGET: "what the owner gives in all, or in a day, is spent",
    RefusalCode.SNAPSHOT: "answered already from the data it has; it takes a new snapshot of them once a day",
    RefusalCode.ORDER: "a stage that was asked twice, left out, or that goes on with a round which ended there",
    RefusalCode.PLAIN: "an answer in plain; the owner gives answers under a secure sum only",
    RefusalCode.FAILED: "the device cannot answer now: its disk, its fleet, or a fault of its own; its log says which",
}


def write_refusal(code: RefusalCode) -> str:
    """The words that travel.

    >>> write_refusal(RefusalCode.COHORT)
    'refused: COHORT'
    """
    return f"{_PREFIX}{code.value}"


def read_refusal(words: str) -> RefusalCode | None:
    """The code in words that a device sent; None where they are no refusal (a transport's, or an older agent's).

    >>> read_refusal("refused: COHORT") is RefusalCode.COHORT
    True
    """
    if not words.startswith(_PREFIX):
        return None
    try:
        return RefusalCode(words.removeprefix(_PREFIX))
    except ValueError:
        return None
