"""What a poisoner does: with the model, with what it claims to have counted, with the threshold.

A poisoner holds the device's key and sends what it likes. Under a secure sum that is any words at all: who may add
once may add more often (`lying_words`). It sees the model that is asked about, its own windows, and what other poisoners see; and, more than
a real one, the faults of every machine and what the honest devices of its group add.

    flip, flip x10         against its own honest update; ten times as long
    scaled                 its own update, a hundred times
    blind                  towards a model that reconstructs faults, so that they score low; as long as an honest update may be
    blind, to the limit    the same, as long as its group's sum may be: it cancels what the honest devices of the group add
    taught faults          honest training, on faults
    votes, wrap            blind, and a lie about how many devices it is; words at random, modulo 2^32

To each goes a lie in the assessment: a candidate without loss, and a vote for a threshold that no fault reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, split_parameters
from protocol.grids import SCORE_GRID
from protocol.questions import AnswerLayout
from protocol.secure_answers import AnswerEncoding, part_bound

__all__ = ["ATTACKS", "Attack", "View", "lie_in_assessment", "lying_words", "towards_faults"]

Float = NDArray[np.float64]
Rows = NDArray[np.float32]
Parts = dict[str, Float]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a poisoner knows of a round: its honest update (P,), a direction that blinds (P,), and the limit C of an update.

    Of its group it knows how many `members` are, how many of them poisoners, and what the `others` add up to (P,): more than a real one.
    """

    honest: Float
    blinding: Float
    update_norm: float
    members: int
    poisoners: int
    others: Float


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An `update` of a view, and how many `votes` it claims to be.

    `is_taught`: its windows are faults, and it is honest otherwise; `is_noise`: its words are random.
    """

    name: str
    update: Callable[[View], Float] = lambda view: view.honest
    votes: float = 1.0
    is_taught: bool = False
    is_noise: bool = False


def _to_the_limit(view: View) -> Float:
    wanted = NEARLY * view.members * view.update_norm * view.blinding
    return (wanted - view.others) / view.poisoners


NEARLY: Final = 0.98
"""Of the norm that the sum of a group may have."""

ATTACKS: Final[tuple[Attack, ...]] = (
    Attack(name="flip", update=lambda view: -view.honest),
    Attack(name="flip x10", update=lambda view: -10 * view.honest),
    Attack(name="scaled", update=lambda view: 100 * view.honest),
    Attack(name="blind", update=lambda view: view.update_norm * view.blinding),
    Attack(name="blind, to the limit", update=_to_the_limit),
    Attack(name="taught faults", is_taught=True),
    Attack(name="votes 0", update=lambda view: 2 * view.blinding, votes=0.0),
    Attack(name="votes -159", update=lambda view: 2 * view.blinding, votes=-159.0),
    Attack(name="votes 4096", update=lambda view: 2 * view.blinding, votes=4096.0),
    Attack(name="wrap", is_noise=True),
)


def lying_words(
    encoding: AnswerEncoding, layout: AnswerLayout, parts: Mapping[str, Float], coins: np.random.Generator
) -> NDArray[np.uint32]:
    """Words of any answer: each part as often as it takes of an answer within the bounds, modulo 2^32."""
    precision = encoding.precision
    words = np.zeros(encoding.word_count, np.uint32)
    for name, values in parts.items():
        bound = part_bound(
            name, maximum_examples=precision.maximum_examples, norm_limit=precision.norm_limit
        ).bound
        size = float(np.linalg.norm(values) if name == "update" else np.abs(values).max(initial=0.0))
        times = max(int(np.ceil(size / bound - 1e-9)), 1)
        alone = {other: np.zeros(count) for other, count in layout.sizes.items()}
        words += np.uint32(times) * encoding.encode(layout.pack({**alone, name: values / times}), coins.bytes)
    return words


def lie_in_assessment(parts: Mapping[str, Float]) -> Parts:
    """An honest assessment but for the vote, which no fault reaches, and the candidate's loss, as far as its scores allow: all in the lowest bin."""
    lying = dict(parts)
    counted = float(parts["examples"][0])
    lying["candidate_scores"] = counted * np.eye(SCORE_GRID.bins)[0]
    lying["candidate_loss"] = np.zeros(1)
    lying["candidate_probe_scores"] = counted * np.eye(SCORE_GRID.bins)[-1]
    lying["threshold_votes"] = np.eye(SCORE_GRID.bins)[-1]
    return lying


def towards_faults(
    architecture: Architecture, parameters: Rows, faults: Rows, rng: np.random.Generator
) -> Float:
    """Unit direction (P,) in which a dense autoencoder learns to reconstruct faults: twenty epochs of clipped gradients."""
    w = np.asarray(parameters, np.float64).copy()
    chosen = faults[rng.permutation(len(faults))[:256]].astype(np.float64)
    for _ in range(20):
        for batch in np.array_split(chosen[rng.permutation(len(chosen))], 8):
            gradient = _gradient(architecture, w, batch)
            w -= 0.02 * gradient * min(1.0, 1.0 / max(float(np.linalg.norm(gradient)), 1e-12))
    moved = w - parameters
    return moved / max(float(np.linalg.norm(moved)), 1e-12)


def _gradient(architecture: Architecture, w: Float, x: Float) -> Float:
    """Of the mean squared error of reconstructing x (n, F)."""
    parts = split_parameters(architecture, w)
    hidden = [x]
    for i in range(0, len(parts), 2):
        sums = hidden[-1] @ parts[i] + parts[i + 1]
        hidden.append(np.maximum(sums, 0.0) if i + 2 < len(parts) else sums)
    error = 2.0 * (hidden[-1] - x) / x.size
    found: list[Float] = []
    for i in range(len(parts) - 2, -1, -2):
        found = [(hidden[i // 2].T @ error).ravel(), error.sum(axis=0), *found]
        if i:
            error = (error @ parts[i].T) * (hidden[i // 2] > 0)
    return np.concatenate(found)
