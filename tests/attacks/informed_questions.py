"""Questions by somebody who knows both windows that a device may have: each is made so that its answer would differ.

A generator of random numbers decides; the same seed asks the same questions. Some are what an honest aggregator asks, most lie in one
place, some in several: in the arrays, the numbers of the question, the terms, the announcement or a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from crafted import GAINS, Float, gated, honest, midpoint_gate, narrow_gate
from lying_rounds import LIES, Asked
from numpy.typing import NDArray
from recorded_device import ARCHITECTURE, CHAMPION, FEATURES

from models.detection.answers import scale_arrays, spread_parts
from models.detection.prior import rescaled
from models.detection.scale import ScaleEvidence, ScalePrior, ScaleSums
from models.detection.spread import Spread, SpreadSums
from protocol.errors import ProtocolError
from protocol.questions import (
    ASSESS,
    FIT,
    KINDS,
    answer_layout,
)
from protocol.secure_answers import make_encoding
from protocol.sum_terms import SumTerms, decode_terms, encode_terms
from protocol.training import TrainingSettings

SIZES = {
    "parameter_count": ARCHITECTURE.parameter_count,
    "tensor_count": ARCHITECTURE.tensor_count,
    "feature_count": FEATURES,
}
SHARES = (0.35, 0.3, 0.05, 0.12, 0.18)
"""Of the kinds, in their order: more of those whose arrays are models."""
ODD = (0.0, -0.0, 1e-45, 1e-38, 1e-9, 1.0, 1e9, 3e38, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Pair:
    """What an attacker knows: all windows of the device (n, F), at `at` one of two, and what one step is in the sensors' units (F,)."""

    rows: Float
    at: int
    other: Float
    unit: NDArray[np.float64]

    @property
    def has_gap(self) -> bool:
        """Whether one of the two is no whole window. None such is buffered; one that is there all the same is left out, and no work."""
        return not np.isfinite(self.other).all()

    @property
    def world(self) -> tuple[Float, Float]:
        """The device's windows in the one world and in the other."""
        changed = self.rows.copy()
        changed[self.at] = self.other
        return self.rows, changed


class InformedQuestions:
    """One question after the other about a `pair`, decided by `rng`; sessions begin with `name`."""

    def __init__(self, pair: Pair, profile: TrainingSettings, rng: np.random.Generator, name: str) -> None:
        self._pair, self._profile, self._rng, self._name, self._count = pair, profile, rng, name, 0
        one, other = pair.world
        rest = np.delete(one, pair.at, axis=0)
        self._gates = [
            narrow_gate(one[pair.at], np.vstack([rest, other[pair.at : pair.at + 1]])),
            narrow_gate(other[pair.at], np.vstack([rest, one[pair.at : pair.at + 1]])),
            *(midpoint_gate(one[pair.at], other[pair.at], feature) for feature in range(FEATURES)),
        ]
        self._weights = np.array([6.0, 6.0] + [1.0] * FEATURES) / (12.0 + FEATURES)
        self._round = 1
        self._last: Asked | None = None

    def next(self) -> Asked:
        """The next attempt; now and then the last one once more, under a new session."""
        self._count += 1
        rng = self._rng
        session = f"session-{self._name}-{self._count}"
        if self._last is not None and rng.random() < 0.08:
            return replace(self._last, session=session, lie=self._lie())
        kind, self._round = str(rng.choice(KINDS, p=SHARES)), self._round + int(rng.integers(2))
        arrays, numbers = self._content(kind)
        question, terms = self._question(kind, numbers), self._terms(kind)
        bits, words = self._announced(kind, terms)
        self._last = Asked(
            session=session,
            kind=kind,
            question=question,
            terms=terms,
            arrays=arrays,
            word_bits=bits,
            word_count=words,
            round_number=self._round,
            is_taken=bool(rng.random() < 0.7),
            cohort=(0, 1, 2, 3) if rng.random() < 0.1 else (0, 1, 2),
            silent=(2,) if rng.random() < 0.08 else (),
            lie=self._lie(),
            requires_confirmation=bool(rng.random() < 0.1),
        )
        return self._last

    def honest(self, kind: str, lie: str) -> Asked:
        """What an aggregator asks that keeps to everything, but for one lie."""
        self._count += 1
        terms = encode_terms(
            SumTerms(
                run_id="run-1",
                question=kind,  # type: ignore[arg-type]  # one of KINDS
                round_number=self._count,
                devices=3,
                norm_limit=self._profile.update_norm or 1.0,
                maximum_examples=self._profile.maximum_examples,
            )
        )
        about = {
            "type": kind.partition(".")[2],
            "run_id": "run-1",
            "layout_sha256": ARCHITECTURE.layout_sha256,
            "profile_sha256": self._profile.sha256,
        }
        bits, words = self._announced(kind, terms)
        return Asked(
            session=f"session-{self._name}-honest-{self._count}",
            kind=kind,
            question=msgspec.json.encode(
                about | ({"round_number": self._count} if kind == FIT else {})
            ).decode(),
            terms=terms,
            arrays={FIT: {"parameters": CHAMPION}, ASSESS: {"candidate": CHAMPION}}.get(kind, {}),
            word_bits=bits,
            word_count=words,
            round_number=self._count,
            lie=lie,
        )

    def _lie(self) -> str:
        return str(self._rng.choice(list(LIES))) if self._rng.random() < 0.25 else "none"

    def _content(self, kind: str) -> tuple[dict[str, Float], dict[str, Any]]:
        rng = self._rng
        arrays: dict[str, Float]
        numbers: dict[str, Any] = {}
        match kind:
            case "train.fit":
                arrays = {"parameters": self._model()}
            case "evaluate.assess":
                arrays = {"candidate": self._model()}
            case "evaluate.scale":
                arrays = {}
            case "evaluate.covariance":
                arrays = self._scale_arrays()
            case _:
                arrays, numbers = self._curve()
        if rng.random() < 0.08 and arrays:
            arrays = self._spoilt(arrays)
        return arrays, numbers

    def _model(self) -> Float:
        rng = self._rng
        base = honest(ARCHITECTURE, int(rng.integers(4)))
        if rng.random() < 0.1:
            return base
        # One gate tells most: a second one that fires in both worlds would drown it.
        count = 1 if rng.random() < 0.8 else 3
        at = rng.choice(len(self._gates), count, replace=False, p=self._weights)
        made = gated(
            ARCHITECTURE,
            [self._gates[i] for i in at],
            sharpness=float(rng.choice([1.0, 1.0, 30.0, *GAINS])),
            gain=float(rng.choice([-1.0, 1.0])) * float(rng.choice([*GAINS, 1e19, 1e20, 1e22])),
            base=base if rng.random() < 0.3 else None,
        )
        if rng.random() < 0.5:
            return made
        # As much of it as the trust region lets pass.
        move = made.astype(np.float64) - CHAMPION
        radius = self._profile.trust_radius or 1.0
        return (CHAMPION + move * min(1.0, 0.999 * radius / max(float(np.linalg.norm(move)), 1e-9))).astype(
            np.float32
        )

    def _vector(self, size: int) -> Float:
        rng = self._rng
        with np.errstate(over="ignore"):
            return (rng.normal(size=size) * float(rng.choice(GAINS))).astype(np.float32)

    def _scale_arrays(self) -> dict[str, Float]:
        rng = self._rng
        if rng.random() < 0.4:
            sums = ScaleSums.of(ScaleEvidence.of(self._finite(int(rng.integers(2))), self._pair.unit))
            return dict(scale_arrays(ScalePrior.of(sums + sums)))
        return {
            "scale_log_variance": rng.uniform(-1, 1, FEATURES).astype(np.float32)
            * np.float32(rng.choice([0.0, 1.0, 20.0, 100.0, 110.0, 120.0])),
            "scale_freedom": np.full(FEATURES, rng.choice(GAINS), np.float32),
        }

    def _curve(self) -> tuple[dict[str, Float], dict[str, Any]]:
        """Sums that, less the device's own part, are nothing in the one world and no covariance, or too few devices, in the other."""
        rng = self._rng
        arrays = self._scale_arrays()
        rows = self._finite(int(rng.integers(2)))
        try:
            evidence = ScaleEvidence.of(rows, self._pair.unit)
            prior = ScalePrior(
                log_variance=arrays["scale_log_variance"].astype(np.float64),
                freedom=arrays["scale_freedom"].astype(np.float64),
            )
            own = SpreadSums.of(Spread.of(rescaled(rows, evidence, self._pair.unit, prior)[0]))
        except (ValueError, TypeError, ArithmeticError, ProtocolError):
            own = SpreadSums.of(Spread.of(rows.astype(np.float64)))
        parts = spread_parts(own)
        factor = float(rng.choice([0.0, 0.5, 1.0, 1.0, 1.0, 1.001, 2.0, 3.0]))
        more = {name: np.asarray(parts[name], np.float64) * factor for name in ("correlation", "wander")}
        if rng.random() < 0.3:
            name = str(rng.choice(list(more)))
            more[name] = self._vector(len(more[name]))
        numbers = {
            "devices": int(rng.choice([1, 1, 2, 3, 1000])),
            "squares": float(rng.choice([0.0, 1.0, 1e300, float(np.asarray(parts["spread_squares"]).sum())])),
            "error": float(rng.choice([0.0, 1.0, 1e-300, float(np.asarray(parts["spread_error"]).sum())])),
        }
        with np.errstate(over="ignore"):
            return arrays | {name: vector.astype(np.float32) for name, vector in more.items()}, numbers

    def _finite(self, world: int) -> Float:
        rows = self._pair.world[world]
        return rows[np.isfinite(rows).all(axis=1)]

    def _spoilt(self, arrays: Mapping[str, Float]) -> dict[str, Float]:
        rng, spoilt = self._rng, dict(arrays)
        name = str(rng.choice(list(spoilt)))
        match int(rng.integers(5)):
            case 0:
                del spoilt[name]
            case 1:
                spoilt[name] = spoilt[name][:-1]
            case 2:
                spoilt["more"] = spoilt[name]
            case 3:
                spoilt[name] = np.zeros(0, np.float32)
            case _:
                spoilt[name] = spoilt[name].copy()
                spoilt[name][int(rng.integers(len(spoilt[name])))] = np.float32(rng.choice(ODD))
        return spoilt

    def _question(self, kind: str, numbers: dict[str, Any]) -> str:
        rng = self._rng
        content: dict[str, Any] = {
            "type": kind.partition(".")[2],
            "run_id": "run-1",
            "layout_sha256": ARCHITECTURE.layout_sha256,
            "profile_sha256": self._profile.sha256,
            **numbers,
        }
        if kind == FIT:
            content["round_number"] = self._round
        if rng.random() < 0.1:
            # What a server could choose before the profile was signed.
            content |= {"maximum_examples": 1, "seed": 1, "training": {"epochs": 1, "learning_rate": 1e6}}
        if rng.random() < 0.05:
            content[str(rng.choice(["layout_sha256", "profile_sha256", "run_id"]))] = "0" * 64
        text = msgspec.json.encode(content).decode()
        return text[: int(rng.integers(len(text)))] if rng.random() < 0.02 else text

    def _terms(self, kind: str) -> str:
        rng = self._rng
        n = len(self._pair.rows)
        most = self._profile.maximum_examples
        terms: dict[str, Any] = {
            "run_id": "run-1",
            "question": kind,
            "round_number": self._round,
            "devices": int(rng.choice([3, 3, 3, 4, 1000])),
            "word_bits": 32,
            "norm_limit": float(self._profile.update_norm or 1.0)
            * float(rng.choice([1e-30, 1e30, *[1.0] * 14])),
            "maximum_examples": int(rng.choice([1, n, *[most] * 14])),
        }
        if rng.random() < (0.3 if kind in {FIT, ASSESS} else 0.03):
            terms["noise"] = {
                "mechanism": str(rng.choice(["discrete-gaussian", "skellam"])),
                "clip": float(rng.choice([1e-9, 0.1, 1.0, 1e9])),
                "noise_multiplier": float(rng.choice([1e-9, 0.5, 1.0, 4.0])),
                "maximum_dropouts": int(rng.choice([0, 0, 1])),
                "rotation_seed": "0" * 32,
            }
            terms["word_bits"] = int(rng.choice([16, 20, 32]))
            terms["devices"] = 3
        if rng.random() < 0.05:
            terms["maximum_participations"] = 1
        if rng.random() < 0.05:
            terms[str(rng.choice(["more", "round_number", "question"]))] = 7
        return msgspec.json.encode(terms).decode()

    def _announced(self, kind: str, terms: str) -> tuple[int, int]:
        """What an honest aggregator would announce under these terms, or nearly anything where they mean nothing."""
        layout = answer_layout(kind, **SIZES)  # type: ignore[arg-type]  # one of KINDS
        try:
            encoding = make_encoding(layout, decode_terms(terms))
        except (ProtocolError, ValueError):
            return 32, layout.total
        return encoding.word_bits, encoding.word_count
