"""The differential recorder: what does an aggregator see that tells two devices apart which differ in one window?

::

    questions ─┬─► world one:   devices 0, 1, 2, (3)    ─┐
               └─► world other: the same, but one window ─┴─► all that left: equal, or a `Difference`

Everything that a device says on the aggregator's road is compared, in its order: replies, refusals, codes and words, sizes, the time that
they took as work (`recorded_device`), and what each message added to the accounts. Of a masked input only session, round and length:
its words are uniform, which `masked` keeps for a test of that.

Source: the idea is that of differential testing of information flow (two runs that differ in the secret alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from informed_questions import InformedQuestions, Pair
from lying_rounds import LIES, Aggregator, Asked
from recorded_device import CHAMPION, FEATURES, DeterministicKey, Float, Left, RecordedDevice, masked_words

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner import question_checks
from edge_agent.learner.anchor import Anchor
from edge_agent.learner.local_learner import LocalLearner
from edge_agent.learner.time_grid import TimeGrid
from edge_agent.privacy import account
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.refusals import RefusalCode
from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.server_role import SecureSum
from protocol.training import ExamplePrivacy, TrainingSettings

NAMES: Final = tuple(DeviceId(f"pump-{index}") for index in range(4))
VICTIM: Final = NAMES[0]
WINDOWS: Final = 40
FLOORS: Final = DevicePolicy()
PROFILE: Final = TrainingSettings(epochs=2, batch_size=8).settled()
OPEN: Final = OwnerLimits(
    answers_per_day=10_000,
    attempts_per_reveal=10_000,
    fits_per_snapshot=10_000,
    fixed_companions=False,
    fewest_exchanged=1,
)
"""As often as a test wants, over whoever it wants."""
OWNERS: Final = (OPEN, OwnerLimits(), OwnerLimits(require_noise=True))
"""One who allows all, one who never heard of limits, one who gives noise only."""
QUESTIONS_A_WORLD: Final = 12
"""Then both worlds begin anew, so that one difference does not show in all that follows."""


@dataclass(frozen=True)
class Difference:
    """What one question left behind in the two worlds: the first thing of each that is not the same."""

    asked: Asked
    device: DeviceId
    one: Left | None
    other: Left | None

    def __str__(self) -> str:
        return f"{self.asked.session} {self.asked.kind} lie={self.asked.lie!r} {self.device}:\n  {str(self.one)[:300]}\n  {str(self.other)[:300]}"


@dataclass
class Found:
    """What came of many questions."""

    questions: int = 0
    sums: int = 0
    differences: list[Difference] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    masked: list[bytes] = field(default_factory=list)


class World:
    """Devices with fixed keys, seeds and windows, in one of two states of the world."""

    def __init__(
        self,
        folder: Path,
        rows: Float,
        unit: np.ndarray,
        *,
        profile: TrainingSettings = PROFILE,
        limits: OwnerLimits = OPEN,
        floors: DevicePolicy = FLOORS,
        champion: Float = CHAMPION,
        fleet_is_away: bool = False,
        grid: Callable[[], TimeGrid] | None = None,
    ) -> None:
        keys = {name: DeterministicKey(1000 + at) for at, name in enumerate(NAMES)}
        roster = {name: key.public_key() for name, key in keys.items()}
        self.devices: Mapping[DeviceId, RecordedDevice] = {
            name: RecordedDevice(
                name,
                key=keys[name],
                roster=roster,
                rows=rows if name == VICTIM else windows(at, len(rows)),
                unit=unit,
                folder=folder,
                limits=limits,
                floors=floors,
                profile=profile,
                champion=champion,
                fleet_is_away=fleet_is_away,
                grid=grid() if grid else None,
            )
            for at, name in enumerate(NAMES)
        }
        self._aggregator = Aggregator(self.devices, VICTIM)

    def play(self, asked: Asked) -> tuple[dict[DeviceId, list[Left]], SecureSum | None]:
        """Ask; returns what each device said, and the sum where there was one."""
        before = {}
        for name, device in self.devices.items():
            device.random_bytes.begin(asked.session)
            device.work.done_s = 0.0
            device.road.is_deaf = not asked.is_taken
            before[name] = len(device.road.said)
        total = self._aggregator.play(asked)
        return {name: device.road.said[before[name] :] for name, device in self.devices.items()}, total

    def next_day(self, rows: Float) -> None:
        """A day passes, and each device has these windows more; its learner begins anew."""
        for device in self.devices.values():
            device.next_day(rows)

    def close(self) -> None:
        for device in self.devices.values():
            device.close()


def windows(seed: int, count: int = WINDOWS) -> Float:
    """Standardised windows of a machine: two causes and some noise."""
    rng = np.random.default_rng([seed, 7])
    basis = np.random.default_rng(99).normal(size=(2, FEATURES))
    return (rng.normal(size=(count, 2)) @ basis + 0.3 * rng.normal(size=(count, FEATURES))).astype(np.float32)


def pairs(rng: np.random.Generator) -> Iterator[Pair]:
    """Windows in every place that matters (newest, held out, trained on, oldest), against another, a jump, an end of the scale, a gap."""
    while True:
        rows = windows(int(rng.integers(1000)))
        at = int(
            rng.choice([WINDOWS - 1, WINDOWS - 2, WINDOWS - 2, WINDOWS - 3, 0, 4, int(rng.integers(WINDOWS))])
        )
        other = windows(int(rng.integers(1000, 2000)), 1)[0] * np.float32(rng.choice([0.0, 1.0, 1.0, 2.0]))
        match int(rng.integers(6)):
            case 0:
                other = np.clip(other * 100, -8, 8).astype(np.float32)
            case 1:
                other = rows[at].copy()
                other[int(rng.integers(FEATURES))] += np.float32(rng.choice([1e-3, 0.1, 1.0]))
            case 2:
                other = other.copy()
                other[int(rng.integers(FEATURES))] = np.nan
            case _:
                pass
        if rng.random() < 0.7:
            # Far from the others, so that a gate can tell it from all of them.
            rows[at] *= np.float32(rng.choice([2, 4]))
        yield Pair(rows, at, other, np.exp(0.3 * rng.normal(size=FEATURES)))


def profile_of(rng: np.random.Generator) -> TrainingSettings:
    """How an approved release may be trained, with steps that diverge among them."""
    settings: dict[str, Any] = {
        "epochs": int(rng.integers(1, 3)),
        "batch_size": int(rng.choice([1, 7, 32, 1000])),
        "learning_rate": float(rng.choice([1e-9, 1e-3, 0.05, 0.05, 0.5, 10.0, 1e6])),
        "maximum_examples": int(rng.choice([WINDOWS, 1000, 10_000])),
        "maximum_staleness": int(rng.choice([0, 0, 4, 100])),
    }
    match int(rng.integers(6)):
        case 0:
            settings["momentum"] = 0.9
        case 1:
            settings["proximal"] = float(rng.choice([0.1, 1e6]))
        case 2:
            settings["optimizer"] = "adam"
        case 3:
            settings["gradient_clip"] = float(rng.choice([1e-30, 1.0]))
        case 4:
            settings["example_privacy"] = ExamplePrivacy(noise_multiplier=1.0, sampling_rate=0.2, steps=4)
        case _:
            pass
    return TrainingSettings(**settings).settled(float(rng.choice([1e-3, 0.5, 1e6])))


@contextmanager
def without_parameter_limits() -> Iterator[None]:
    """Devices that believe any parameters, priors and terms, as often as they are asked: else a recorder mostly sees refusals.

    What is left of the checks is what the code behind them cannot do without: names and shapes.
    """

    def has_shape(flat: Float, anchor: Anchor, _: float) -> None:
        if flat.shape != anchor.parameters.shape:
            raise QuestionRefusedError(RefusalCode.ARRAYS, "another number of parameters")

    with (
        patch.object(question_checks, "_check_near", has_shape),
        patch.object(question_checks, "_check_scale", lambda *_: None),
        patch.object(question_checks, "_check_spread", lambda *_: None),
        patch.object(LocalLearner, "check_terms", lambda *_: None),
        patch.object(account, "check_attempt", lambda *_, **__: None),
    ):
        yield


def compare(
    folder: Path,
    questions: int,
    *,
    seed: int,
    until_found: bool = False,
    limits: OwnerLimits | None = None,
) -> Found:
    """Ask so many questions of both worlds, and say where they differ; `limits` are the owner's, by default one or another."""
    rng = np.random.default_rng([seed, 11])
    found = Found()
    for episode, pair in enumerate(pairs(rng)):
        if found.questions >= questions or (until_found and found.differences):
            break
        profile = profile_of(rng)
        owner, is_away = OWNERS[int(rng.choice(len(OWNERS), p=(0.8, 0.1, 0.1)))], episode % 16 == 5
        asker = InformedQuestions(pair, profile, rng, f"{seed}-{episode}")
        both = [
            World(
                folder / f"{seed}-{episode}-{side}",
                rows,
                pair.unit,
                profile=profile,
                limits=limits or owner,
                fleet_is_away=is_away,
            )
            for side, rows in enumerate(pair.world)
        ]
        for _ in range(min(QUESTIONS_A_WORLD, questions - found.questions)):
            asked = asker.next()
            (one, total), (other, _) = (world.play(asked) for world in both)
            found.questions += 1
            found.sums += total is not None
            _note_refusals(found, one)
            if (difference := _first_difference(asked, one, other, timed=not pair.has_gap)) is not None:
                # All that follows may differ because of it: both worlds begin anew.
                found.differences.append(difference)
                break
        # Of one world only: where both answer the same, so are their words, by seeds that are the same.
        for reply in both[0].devices[VICTIM].road.replies:
            if (words := masked_words(reply)) is not None:
                found.masked.append(words)
        for world in both:
            world.close()
    return found


def compare_lies(folder: Path) -> Found:
    """Tell each lie once to devices that would answer, and ask those who want noise, and those whose fleet is away."""
    rows, found = windows(5), Found()
    pair = Pair(rows, WINDOWS - 1, 4 * windows(6, 1)[0], np.ones(FEATURES))
    for name, lies, limits, is_away in (
        ("open", tuple(LIES), OPEN, False),
        ("noise", ("none",), OWNERS[2], False),
        ("away", ("none",), OPEN, True),
    ):
        asker = InformedQuestions(pair, PROFILE, np.random.default_rng(1), name)
        both = [
            World(folder / f"{name}-{side}", rows, pair.unit, limits=limits, fleet_is_away=is_away)
            for side, rows in enumerate(pair.world)
        ]
        for lie in lies:
            # Not what a snapshot is asked once: the first lie would be the last.
            asked = asker.honest(FIT, lie)
            (one, total), (other, _) = (world.play(asked) for world in both)
            found.questions, found.sums = found.questions + 1, found.sums + (total is not None)
            _note_refusals(found, one)
            if (difference := _first_difference(asked, one, other, timed=True)) is not None:
                found.differences.append(difference)
        for world in both:
            world.close()
    return found


def _first_difference(
    asked: Asked, one: Mapping[DeviceId, list[Left]], other: Mapping[DeviceId, list[Left]], *, timed: bool
) -> Difference | None:
    """Of the victim first: what the others say may differ because they are told of it."""
    end = None if timed else -1
    for name, said in one.items():
        for here, there in zip_longest(said, other[name]):
            if here is None or there is None or here[:end] != there[:end]:
                return Difference(asked, name, here, there)
    return None


def _note_refusals(found: Found, said: Mapping[DeviceId, list[Left]]) -> None:
    for left in (left for each in said.values() for left in each if left[0] == "refused"):
        reason = str(left[3])
        found.refusals[reason] = found.refusals.get(reason, 0) + 1
