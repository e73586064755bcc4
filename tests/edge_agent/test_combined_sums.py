"""An aggregator that combines all the sums it can have opened: no device stands alone in any combination.

It chooses cohorts, survivors and whom it asks for shares; it asks as few as suffice, so that the others remember nothing. Devices are honest
and real accounts; a sum is open once as many reveal as its threshold. Sums are rows of zeros and ones, one column a device: a device
stands alone where its unit vector is a combination of rows. The last test sees that happen, with the rules switched off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from privacy_world import DAY_S, Owned, asked

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import FIT, SCALE, Kind
from protocol.secure_sum.planner import secrecy_threshold

FLEET = 12
TRIES = 60
MANY = OwnerLimits(answers_per_day=10_000)
FREE = OwnerLimits(
    answers_per_day=10_000, fits_per_snapshot=10_000, fixed_companions=False, fewest_exchanged=1
)
THE_SAME_ALWAYS = OwnerLimits(answers_per_day=10_000, fewest_exchanged=10_000)


class Liar:
    """The aggregator, and what it has opened."""

    def __init__(self, folder: Path, limits: OwnerLimits, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.devices: dict[DeviceId, Owned] = {}
        self.opened: list[frozenset[DeviceId]] = []
        for index in range(FLEET):
            state = folder / f"d{index:02d}"
            state.mkdir()
            self.devices[DeviceId(state.name)] = device = Owned(state, limits)
            device.watch(400)
            device.snapshot()

    def ask(self, kind: Kind, cohort: frozenset[DeviceId]) -> None:
        """One attempt: as many devices as it takes are asked for shares, in an order of the liar's."""
        question, masked = asked(kind), set()
        for device in cohort:
            try:
                self.devices[device].mask(question, cohort)
                masked.add(device)
            except PrivacyRefusedError:
                continue
        threshold = secrecy_threshold(
            cohort=len(cohort),
            degree=len(cohort) - 1,
            corrupt_fraction=0.2,
            secrecy_bits=40,
            split_view_safe=True,
        )
        assert threshold is not None
        least = max(3, threshold)
        if len(masked) < least:
            return
        size = int(self.rng.integers(least, len(masked) + 1))
        survivors = self.some(masked, size)
        reveals = 0
        for device in self.rng.permutation(sorted(survivors)):
            if reveals == threshold:
                break
            try:
                self.devices[DeviceId(device)].account.reveal(question, survivors)
                reveals += 1
            except PrivacyRefusedError:
                continue
        if reveals == threshold:
            self.opened.append(survivors)

    def some(self, among: set[DeviceId] | None, size: int) -> frozenset[DeviceId]:
        """So many of them."""
        pool = sorted(self.devices if among is None else among)
        return frozenset(pool[i] for i in self.rng.choice(len(pool), size, replace=False))

    def alone(self) -> list[str]:
        """Devices that a combination of opened sums leaves alone."""
        names = sorted(self.devices)
        rows = np.array([[name in opened for name in names] for opened in set(self.opened)], float)
        if not len(rows):
            return []
        rank = np.linalg.matrix_rank(rows)
        return [
            name
            for unit, name in zip(np.eye(len(names)), names, strict=True)
            if np.linalg.matrix_rank(np.vstack([rows, unit])) == rank
        ]

    def play(self, kind: Kind) -> None:
        """What was opened before once more; then many cohorts, with those that were opened among them, each and less one."""
        for older in sorted(set(self.opened), key=sorted):
            self.ask(kind, older)
        for number in range(TRIES):
            cohort = self.some(None, int(self.rng.integers(3, 7)))
            if number % 3 and self.opened:
                last = self.opened[int(self.rng.integers(len(self.opened)))]
                cohort = last if number % 3 == 1 else last - {min(last)}
            if len(cohort) >= 3:
                self.ask(kind, cohort)


@pytest.mark.parametrize("kind", [FIT, SCALE])
@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_stands_alone_in_the_sums_of_one_snapshot(tmp_path: Path, kind: Kind, seed: int) -> None:
    liar = Liar(tmp_path, MANY, seed)
    liar.play(kind)
    assert len(set(liar.opened)) >= 2, "the liar did open sums"
    assert liar.alone() == []


def test_nobody_stands_alone_over_days_where_owners_ask_for_the_same_devices_every_time(
    tmp_path: Path,
) -> None:
    liar = Liar(tmp_path, THE_SAME_ALWAYS, 3)
    for _ in range(3):
        liar.play(SCALE)
        for device in liar.devices.values():
            device.watch(32)
            device.clock.pass_s(DAY_S)
            device.snapshot()
    assert len(liar.opened) > len(set(liar.opened)), "the same sums were opened again on other days"
    assert liar.alone() == []


def test_without_the_rules_the_liar_sees_devices_alone(tmp_path: Path) -> None:
    liar = Liar(tmp_path, FREE, 1)
    liar.play(FIT)
    assert len(liar.alone()) >= FLEET // 2


def test_two_learners_of_each_device_at_once_open_no_ring_of_sums(tmp_path: Path) -> None:
    """Half of each group is the liar's. A + B, B + C and C + A give A's answer; a learner alone forgets an attempt when it begins another."""
    names, liars = [DeviceId(name) for name in "abc"], {DeviceId("s1"), DeviceId("s2")}
    pairs = {}
    for name in names:
        (tmp_path / name).mkdir()
        pairs[name] = Owned(tmp_path / name, MANY), Owned(tmp_path / name, MANY)
        for learner in pairs[name]:
            learner.watch(400)
            learner.snapshot()
    ring = [(asked(SCALE), names[i], names[(i + 1) % 3]) for i in range(3)]
    for question, one, other in ring:
        pairs[one][0].mask(question, {one, other} | liars)
        pairs[other][1].mask(question, {one, other} | liars)
    # A device's shares and the liar's two are enough.
    whole = [frozenset({one, other} | liars) for _, one, other in ring]
    with pytest.raises(PrivacyRefusedError, match=r"a later attempt at evaluate.scale was answered"):
        pairs[names[0]][0].account.reveal(ring[0][0], whole[0])
    for (question, one, _), survivors in zip(ring[1:], whole[1:], strict=True):
        pairs[one][0].account.reveal(question, survivors)
