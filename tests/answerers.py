"""What stands behind a device's side of sums in tests: an answer of two lines, an anchor, a grid on which nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.learner.anchor import Anchor
from edge_agent.learner.time_grid import TimeGrid
from protocol.questions import AnswerLayout, Kind, Question
from protocol.sum_terms import SumTerms
from protocol.training import TrainingSettings

Float = NDArray[np.float32]
Answering = Callable[[Question, Mapping[str, Float]], Float]

NO_GRID = TimeGrid(lambda: 0.0, lambda _: None)
"""Replies leave at once."""


def anchor(
    layout_sha256: str,
    parameters: NDArray[np.floating],
    profile: TrainingSettings,
    *,
    columns: str = "0" * 64,
) -> Anchor:
    """A release that a person approved."""
    return Anchor(
        release="press/1",
        layout_sha256=layout_sha256,
        columns=columns,
        profile=profile,
        graph_sha256="0" * 64,
        values=np.asarray(parameters, "<f4").tobytes(),
    )


@dataclass
class Answers:
    """An `Answerer`, and a `PlainSide`, that answers whatever it is told to and has no objections."""

    answering: Answering
    layout: Callable[[Kind], AnswerLayout] | None = None

    def layout_of(self, kind: Kind) -> AnswerLayout:
        assert self.layout is not None, "no layout was given"
        return self.layout(kind)

    def check_terms(self, terms: SumTerms) -> None:
        pass

    def check(self, question: Question, arrays: Mapping[str, Float]) -> None:
        pass

    def answer(self, question: Question, arrays: Mapping[str, Float]) -> Float:
        return self.answering(question, arrays)

    def settle(self) -> None:
        pass
