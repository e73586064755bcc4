"""Sums of honest devices, as the server decodes them: real answers through the real encoding, without the masks, which cancel.

Devices differ: a few windows or many, sensors that stand still, scales over decades, machines that wander, models that explode on one
of them; some cannot answer at all and add zeros. A liar's words are any words.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aggregator.rounds.sum_checks import check_sum
from edge_agent.learner.prior_answers import answer_prior
from models.detection.answers import read_scale, read_spread, scale_arrays, spread_parts
from models.detection.scale import ScalePrior
from models.local_training import assess
from protocol.questions import (
    ASSESS,
    COVARIANCE,
    CURVE,
    FIT,
    SCALE,
    AnswerLayout,
    CovarianceQuestion,
    CurveQuestion,
    Kind,
    ScaleQuestion,
    answer_layout,
)
from protocol.secure_answers import AnswerEncoding, exact_word_bits, make_encoding
from protocol.sum_terms import NoiseTerms, SumTerms

FEATURES, TENSORS, PARAMETERS = 6, 3, 50
NORM, MOST = 0.1, 10_000
ABOUT = {"run_id": "run-1", "layout_sha256": "0" * 64, "profile_sha256": "0" * 64}


def layout_of(kind: Kind) -> AnswerLayout:
    return answer_layout(kind, parameter_count=PARAMETERS, tensor_count=TENSORS, feature_count=FEATURES)


def encoding_of(kind: Kind, devices: int, noise: NoiseTerms | None = None) -> AnswerEncoding:
    layout = layout_of(kind)
    bits = exact_word_bits(layout, devices=devices, maximum_examples=MOST) if noise is None else 24
    terms = SumTerms(
        run_id="run-1",
        question=kind,
        round_number=1,
        devices=devices,
        word_bits=bits,
        norm_limit=NORM,
        maximum_examples=MOST,
        noise=noise,
    )
    return make_encoding(layout, terms)


def words_of(encoding: AnswerEncoding, answers: Sequence[np.ndarray]) -> np.ndarray:
    """What is left when the masks are off: the sum modulo 2^bits."""
    words = np.zeros(encoding.word_count, np.uint32)
    for answer in answers:
        words += encoding.encode(answer, os.urandom)
    return words & np.uint32((1 << encoding.word_bits) - 1)


def decoded(kind: Kind, answers: Sequence[np.ndarray], noise: NoiseTerms | None = None) -> np.ndarray:
    encoding = encoding_of(kind, len(answers), noise)
    return encoding.decode(words_of(encoding, answers), len(answers))


def check(kind: Kind, total: np.ndarray, devices: int, noise: NoiseTerms | None = None) -> None:
    check_sum(kind, layout_of(kind).unpack(total), devices, encoding_of(kind, devices, noise).precision)


class Scores:
    """In place of a model: scores grow with a window's square, times the model's first parameter."""

    def __init__(self) -> None:
        self._factor = 1.0

    def restore(self, flat: np.ndarray, correction: np.ndarray | None = None) -> None:
        self._factor = float(flat[0])

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = np.square(np.asarray(x, np.float64)).mean(axis=1) * self._factor
        return np.asarray(x), scores.astype(np.float32)

    def ranges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = float(x.min()), float(x.max())
        return np.float32([low, -self._factor, 0.0]), np.float32([high, self._factor * high**2, 3.0])


@dataclass
class HonestDevices:
    """One group of devices, and their answers to each question in turn; `failing` of them, in [0, 1], add zeros to everything."""

    rng: np.random.Generator
    count: int
    failing: float = 0.1
    windows: Sequence[int] = (32, 40, 90, 200, 1500)
    explodes: bool = True
    rows: list[np.ndarray] = field(init=False)
    units: list[np.ndarray] = field(init=False)
    fails: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [_rows(self.rng, int(self.rng.choice(self.windows))) for _ in range(self.count)]
        spread = [self.rng.choice([0.1, 1.0, 8.0]) for _ in range(self.count)]
        self.units = [np.exp(self.rng.normal(size=FEATURES) * one) for one in spread]
        self.fails = self.rng.random(self.count) < self.failing

    def fit(self) -> list[np.ndarray]:
        """Updates up to the limit, and beyond: the encoding clips."""
        layout = layout_of(FIT)
        updates = [
            self.rng.normal(size=PARAMETERS) * self.rng.choice([0.001, 0.01, 1.0]) for _ in range(self.count)
        ]
        return [
            np.zeros(layout.total, np.float32)
            if fails
            else layout.pack({"update": update, "votes": np.ones(1)})
            for update, fails in zip(updates, self.fails, strict=True)
        ]

    def scale(self) -> list[np.ndarray]:
        return self._prior(SCALE, ScaleQuestion(**ABOUT), {})

    def covariance(self, scale_total: np.ndarray) -> list[np.ndarray]:
        return self._prior(COVARIANCE, CovarianceQuestion(**ABOUT), _scale(scale_total))

    def curve(self, scale_total: np.ndarray, spread_total: np.ndarray) -> list[np.ndarray]:
        spread = read_spread(layout_of(COVARIANCE).unpack(spread_total), FEATURES)
        parts = spread_parts(spread)
        arrays = _scale(scale_total) | {name: np.float32(parts[name]) for name in ("correlation", "wander")}
        question = CurveQuestion(
            **ABOUT,
            devices=max(round(spread.devices), 1),
            squares=max(spread.squares, 0.0),
            error=max(spread.error, 0.0),
        )
        return self._prior(CURVE, question, arrays)

    def assess(self) -> list[np.ndarray]:
        layout = layout_of(ASSESS)
        answers = []
        for rows, fails in zip(self.rows, self.fails, strict=True):
            factor = np.float32([self.rng.choice([0.01, 1.0, 100.0, 1e5 if self.explodes else 1.0])])
            held_out = np.arange(len(rows)) % 5 == 4
            parts = assess(
                Scores(), factor, np.ones(1), rows[held_out], quantile=0.999, trained_on=rows[~held_out]
            )
            answers.append(np.zeros(layout.total, np.float32) if fails else layout.pack(parts))
        return answers

    def answers(self, kind: Kind) -> list[np.ndarray]:
        """To any question, with what this group's own sums say before it."""
        if kind == FIT:
            return self.fit()
        if kind == ASSESS:
            return self.assess()
        scale = self.scale()
        if kind == SCALE:
            return scale
        scale_total = decoded(SCALE, scale)
        spread = self.covariance(scale_total)
        return spread if kind == COVARIANCE else self.curve(scale_total, decoded(COVARIANCE, spread))

    def _prior(self, kind: Kind, question: object, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        layout = layout_of(kind)
        return [
            np.zeros(layout.total, np.float32)
            if fails
            else layout.pack(answer_prior(question, arrays, rows, unit))
            for rows, unit, fails in zip(self.rows, self.units, self.fails, strict=True)
        ]


def _scale(total: np.ndarray) -> dict[str, np.ndarray]:
    return scale_arrays(ScalePrior.of(read_scale(layout_of(SCALE).unpack(total))))


def _rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Windows (n, F) of a machine with three causes, noise and a slow wander."""
    rows = rng.normal(size=(count, 3)) @ rng.normal(size=(3, FEATURES)) + 0.2 * rng.normal(
        size=(count, FEATURES)
    )
    rows += np.cumsum(0.03 * rng.normal(size=(count, FEATURES)), axis=0)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    if rng.random() < 0.2:
        rows[:, rng.integers(FEATURES)] = 0.0
    if rng.random() < 0.3:
        rows *= 5.0
    return np.clip(rows, -8, 8).astype(np.float32)
