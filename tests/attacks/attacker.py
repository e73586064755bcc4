"""An aggregator that is after windows: what it asks over whole rounds, and what it reads from the sums.

It knows the devices' windows, so that it can try the very best question for each and be told at once whether it read one. A window
counts as read when something that it computed from sums is within 5 % of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from crafted import Float, gated, narrow_gate, window_behind
from informed_questions import SIZES
from lying_rounds import Asked
from numpy.typing import NDArray
from recorded_device import ARCHITECTURE, CHAMPION, Left
from two_worlds import NAMES, PROFILE, VICTIM, World

from models.trust_radius import least_isolation
from protocol.questions import answer_layout
from protocol.secure_answers import make_encoding
from protocol.sum_terms import NoiseTerms, SumTerms, encode_terms
from protocol.training import TrainingSettings

__all__ = ["READ", "Attacker", "is_read", "isolating", "radius_of", "signal_of", "within"]

READ: Final = 0.05


class Attacker:
    """Asks a world's devices, as often as it likes.

    Args:
        world: of devices.
        profile: theirs.
    """

    def __init__(self, world: World, profile: TrainingSettings = PROFILE) -> None:
        self.world, self._profile = world, profile
        self._count = 0

    def ask(
        self,
        kind: str,
        arrays: Mapping[str, Float],
        *,
        cohort: tuple[int, ...] = (0, 1, 2),
        lie: str = "none",
        noise: NoiseTerms | None = None,
        **more: Any,
    ) -> tuple[dict[str, NDArray[np.float64]] | None, list[Left]]:
        """One round; returns the parts of the sum where there was one, and what the victim said.

        `more` goes into the question, as what a server could choose once did.
        """
        self._count += 1
        question = {
            "type": kind.partition(".")[2],
            "run_id": "run-1",
            "layout_sha256": ARCHITECTURE.layout_sha256,
            "profile_sha256": self._profile.sha256,
            **({"round_number": self._count} if kind == "train.fit" else {}),
            **more,
        }
        terms = SumTerms(
            run_id="run-1",
            question=kind,  # type: ignore[arg-type]  # a kind of protocol.questions
            round_number=self._count,
            devices=len(cohort),
            norm_limit=self._profile.update_norm or 1.0,
            maximum_examples=self._profile.maximum_examples,
            noise=noise,
        )
        layout = answer_layout(kind, **SIZES)  # type: ignore[arg-type]  # as above
        encoding = make_encoding(layout, terms)
        said, total = self.world.play(
            Asked(
                session=f"session-{self._count}",
                kind=kind,
                question=msgspec.json.encode(question).decode(),
                terms=encode_terms(terms),
                arrays=arrays,
                word_bits=encoding.word_bits,
                word_count=encoding.word_count,
                round_number=self._count,
                cohort=cohort,
                lie=lie,
            )
        )
        if total is None:
            return None, said[VICTIM]
        return layout.unpack(encoding.decode(total.words, len(total.participants))), said[VICTIM]

    @property
    def answers(self) -> int:
        """How many answers the victim has charged."""
        return self.world.devices[VICTIM].account.spending().participations


def windows_of(world: World, cohort: Iterable[int]) -> Float:
    """All windows that these devices train on (n, F)."""
    return np.vstack([world.devices[NAMES[at]].learner._training for at in cohort])


def isolating(target: Float, others: Float) -> Float:
    """Parameters whose first unit fires for one window alone, and moves the output a little."""
    return gated(ARCHITECTURE, [narrow_gate(target, others)], sharpness=1.0, gain=0.5)


def within(parameters: Float, radius: float, centre: Float = CHAMPION) -> Float:
    """As much of the way to these parameters as a trust region lets pass."""
    move = parameters.astype(np.float64) - centre
    return (centre + move * min(1.0, 0.999 * radius / float(np.linalg.norm(move)))).astype(np.float32)


def radius_of(rows: Float) -> float:
    """The trust radius of the approved release, as its issuer computes it: half the least isolation on the reference."""
    return least_isolation(ARCHITECTURE, CHAMPION, rows, seed=0).distance / 2


def is_read(update: NDArray[np.floating], target: Float) -> bool:
    """Whether any unit of an update says what this window is, by its own weights' share of its bias or as an output's row does."""
    return any(
        bool(
            np.linalg.norm(window_behind(update, ARCHITECTURE, unit) - target) < READ * np.linalg.norm(target)
        )
        for unit in range(ARCHITECTURE.layers[1])
    )


def signal_of(said: list[Left]) -> tuple[Any, ...]:
    """What of a round could be told from another round's: everything but its session, its keys and signatures, and masked words."""
    told: list[Any] = []
    for left in said:
        match left[0]:
            case "answered":
                message = left[2][1][1]
                size = message[3] if isinstance(message, tuple) else None
                told.append(("answered", left[1], size, *left[3:]))
            case "charged":
                told.append(("charged", len(left) - 2))
            case "refused":
                told.append(left)
    return tuple(told)
