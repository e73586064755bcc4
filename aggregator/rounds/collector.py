"""THE SEAM: a question goes to a cohort, one sum comes back, and nothing else of any device is kept.

::

    round policy ──question, cohort──► Collector.collect ──ask──► CohortLink ──► devices
    round policy ◄──CohortSum(total)── Collector.collect ◄─reply─ CohortLink ◄── devices

`PlainCollector` sees each answer, admits it and adds it up in float64. `secure_collector.SecureCollector` stands in the same
place with the same signature: devices mask, only the unmasked SUM appears, and `Admission` moves to the device (clipping) and
to the sum. So a round policy may rely on: `total` is the sum over exactly `participants`, there are at least
`quorum` of them, and nothing below this line can tell it a single device's answer.

Not a policy of who takes part, and no arithmetic on the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.admission import Admission, check_answer
from aggregator.rounds.cohort_link import CohortLink
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.reports import CohortSum, CohortTally, QuorumMissedError, RoundCanceledError
from protocol.names import DeviceId
from protocol.questions import AnswerLayout, Question, kind_of

__all__ = ["CohortQuestion", "Collector", "PlainCollector"]

LOOK_EVERY_S: Final = 0.25
"""Longest wait between two looks at the clock and at `canceled`; replies wake the collector at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortQuestion:
    """One question as it is put to a cohort.

    `arrays` are the named flat float32 vectors that go with it, `layout` is the answer's, and `admission` the rule that each
    single answer must pass wherever somebody can look at it. Where a cohort's groups are asked different things, `variants` are their
    questions and arrays, in the order of the groups.
    """

    question: Question
    arrays: Mapping[str, NDArray[np.float32]]
    layout: AnswerLayout
    admission: Admission
    variants: Sequence[tuple[Question, Mapping[str, NDArray[np.float32]]]] = ()


class Collector(Protocol):
    """Gathers the sum of a cohort's answers to one question."""

    def collect(
        self,
        asked: CohortQuestion,
        cohort: Cohort,
        *,
        deadline_s: float,
        canceled: Callable[[], bool] = lambda: False,
    ) -> CohortSum:
        """Put the question to every device of the cohort and add up what is admitted.

        Args:
            asked: the question.
            cohort: who is asked, how many answers make a sum, and how many close the round early.
            deadline_s: wall seconds from now; whoever answers later is dropped and reported lost.
            canceled: asked a few times a second; True ends the round.

        Raises:
            QuorumMissedError: fewer admitted answers than the cohort's quorum; carries the report.
            RoundCanceledError: `canceled` said so; carries the report.
            FlowerRunEndedError: the transport's run is over; start another and ask again.
        """


class PlainCollector:
    """The collector without a secure sum: the server sees each update in memory, adds it and forgets it.

    Args:
        link: the road to the devices.
        clock: monotonic seconds.
    """

    def __init__(self, link: CohortLink, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock

    def collect(
        self,
        asked: CohortQuestion,
        cohort: Cohort,
        *,
        deadline_s: float,
        canceled: Callable[[], bool] = lambda: False,
    ) -> CohortSum:
        """See `Collector.collect`. How the cohort was drawn is of no account: a plain round claims nothing."""
        _check_figures(cohort, deadline_s)
        started = self._clock()
        tally, total = CohortTally(cohort.devices), np.zeros(asked.layout.total, np.float64)
        participants: list[DeviceId] = []

        def add(device: DeviceId, vector: NDArray[np.float32]) -> None:
            check_answer(asked.layout, vector, asked.admission)
            np.add(total, vector, out=total)
            participants.append(device)

        tally.begin(kind_of(asked.question))
        waiting = self._link.ask(
            cohort.devices,
            asked.question,
            asked.arrays,
            lifetime_s=deadline_s,
            answer_size=asked.layout.total,
        )
        tally.lose(set(cohort.devices) - set(waiting.values()))
        target = cohort.target
        try:
            while waiting and len(participants) < target:
                left = started + deadline_s - self._clock()
                if left <= 0:
                    break
                if canceled():
                    tally.spare(waiting.values())
                    raise RoundCanceledError(
                        f"the round was canceled with {len(participants)} of {target} answers in",
                        tally.report(participants, self._clock() - started),
                    )
                for reply in self._link.replies(tuple(waiting), wait_s=min(left, LOOK_EVERY_S)):
                    del waiting[reply.ticket]
                    # A reply beyond the target is late: the sum is over exactly the first `target`.
                    if len(participants) < target:
                        tally.take(reply, add)
                    else:
                        tally.spare([reply.device])
        finally:
            self._link.withdraw(tuple(waiting))
        (tally.spare if len(participants) >= target else tally.lose)(waiting.values())
        report = tally.report(participants, self._clock() - started)
        if len(report.participants) < cohort.quorum:
            raise QuorumMissedError(
                f"{len(report.participants)} of {len(cohort.devices)} devices answered within {deadline_s:g} s, the quorum is {cohort.quorum}"
                f" ({len(report.refused)} refused, {len(report.lost)} lost)",
                report,
            )
        return CohortSum(**vars(report), total=total)


def _check_figures(cohort: Cohort, deadline_s: float) -> None:
    if len(set(cohort.devices)) != len(cohort.devices):
        raise ValueError(f"a cohort names each device once, got {sorted(cohort.devices)}")
    if cohort.quorum < 1 or (cohort.enough is not None and cohort.enough < cohort.quorum):
        raise ValueError(f"quorum {cohort.quorum} must be 1 or more and at most enough ({cohort.enough})")
    if deadline_s <= 0:
        raise ValueError(f"deadline_s {deadline_s} must be positive")
