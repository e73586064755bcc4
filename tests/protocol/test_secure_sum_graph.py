"""The graph: everybody has as many neighbours as planned, nobody chooses them, and both sides see the same ones."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.names import DeviceId
from protocol.secure_sum.errors import GraphMismatchError, UnknownDeviceError
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.planner import SumPlan
from protocol.secure_sum.shamir import MAX_POINT

pytestmark = pytest.mark.edge


def cohort_of(
    n: int,
    degree: int,
    *,
    threshold: int = 5,
    session: str = "session-0001",
    changed: str = "",
    generator: MaskGenerator = MaskGenerator.AES_128_CTR,
    round_number: int = 1,
) -> Cohort:
    digests = {DeviceId(f"d{i:05d}"): hashlib.sha256(f"{i}".encode()).digest() for i in range(n)}
    if changed:
        digests[DeviceId("d00003")] = hashlib.sha256(changed.encode()).digest()
    return Cohort(
        session=session,
        round_number=round_number,
        digests=digests,
        plan=SumPlan(degree=degree, threshold=threshold),
        generator=generator,
    )


@settings(max_examples=30, deadline=None)
@given(n=st.integers(130, 400), half=st.integers(1, 64))
def test_a_ring_gives_everybody_as_many_neighbours_as_planned_and_is_mutual(n: int, half: int) -> None:
    cohort = cohort_of(n, 2 * half)
    for device in cohort.ids:
        neighbours = cohort.neighbours(device)
        assert len(neighbours) == len(set(neighbours)) == 2 * half
        assert list(neighbours) == sorted(neighbours)
        assert device not in neighbours
        assert cohort.holders(device) == neighbours
        assert all(device in cohort.neighbours(peer) for peer in neighbours)


@pytest.mark.parametrize("n", [2, 3, 128])
def test_in_a_complete_graph_everybody_else_is_a_neighbour_and_one_keeps_a_share_oneself(n: int) -> None:
    cohort = cohort_of(n, n - 1)
    for device in cohort.ids:
        assert set(cohort.neighbours(device)) == set(cohort.ids) - {device}
        assert cohort.holders(device) == cohort.ids


def test_whatever_the_cohort_agrees_on_changes_the_hash_and_the_order() -> None:
    plain = cohort_of(200, 10)
    others = [
        cohort_of(200, 10, session="session-0002"),
        cohort_of(200, 10, round_number=2),
        cohort_of(200, 10, threshold=6),
        cohort_of(200, 10, generator=MaskGenerator.CHACHA20),
        cohort_of(200, 10, changed="another key"),
        cohort_of(201, 10),
    ]
    assert len({cohort.graph_hash for cohort in (plain, *others)}) == 1 + len(others)
    for other in others:
        same = sum(plain.neighbours(device) == other.neighbours(device) for device in plain.ids)
        assert same < 5


def test_the_order_is_the_same_for_whoever_computes_it() -> None:
    one = cohort_of(200, 10)
    order = np.random.default_rng(1).permutation(len(one.ids))
    shuffled = {one.ids[at]: one.digests[one.ids[at]] for at in order}
    other = Cohort(
        session=one.session,
        round_number=one.round_number,
        digests=shuffled,
        plan=one.plan,
        generator=one.generator,
    )
    assert other.graph_hash == one.graph_hash
    assert other.neighbours(one.ids[0]) == one.neighbours(one.ids[0])


def test_the_hash_and_the_order_are_the_golden_ones() -> None:
    cohort = cohort_of(130, 4)
    assert cohort.graph_hash.hex() == "88a2c01291ed5e984ac01ccf4c293d20556bceef960703d824feaee918ba9689"
    assert cohort.neighbours(cohort.ids[0]) == ("d00020", "d00053", "d00060", "d00076")


def test_names_cannot_be_moved_between_fields() -> None:
    digest = bytes(32)

    def hash_of(session: str, *devices: str) -> bytes:
        return Cohort(
            session=session,
            round_number=1,
            digests={DeviceId(device): digest for device in devices},
            plan=SumPlan(degree=len(devices) - 1, threshold=2),
            generator=MaskGenerator.AES_128_CTR,
        ).graph_hash

    assert hash_of("session-a", "bc", "d") != hash_of("session-a", "b", "cd")
    assert hash_of("session-ab", "c", "d") != hash_of("session-a", "bc", "d")


def test_over_many_rounds_everybody_is_as_often_a_neighbour_as_anybody() -> None:
    rounds, n, degree = 400, 130, 10
    met: Counter[str] = Counter()
    for number in range(rounds):
        met.update(cohort_of(n, degree, round_number=number).neighbours(DeviceId("d00000")))
    expected = rounds * degree / (n - 1)
    statistic = sum((met[f"d{i:05d}"] - expected) ** 2 / expected for i in range(1, n))
    # χ² with 128 degrees of freedom: mean 128, standard deviation 16.
    assert 128 - 5 * 16 < statistic < 128 + 5 * 16


def test_points_of_shares_are_distinct_and_never_zero() -> None:
    cohort = cohort_of(200, 10)
    points = {cohort.point(device) for device in cohort.ids}
    assert len(points) == 200
    assert min(points) >= 1
    assert max(points) <= MAX_POINT


@pytest.mark.parametrize(("n", "degree"), [(10, 8), (128, 20), (200, 9), (200, 0), (200, 200), (131, 130)])
def test_a_degree_the_cohort_cannot_have_is_refused(n: int, degree: int) -> None:
    with pytest.raises(GraphMismatchError, match=f"got degree {degree}|, got {degree}"):
        cohort_of(n, degree)


def test_a_stranger_has_no_neighbours() -> None:
    with pytest.raises(UnknownDeviceError, match="'d99999' is not in this cohort of 10"):
        cohort_of(10, 9).neighbours(DeviceId("d99999"))
