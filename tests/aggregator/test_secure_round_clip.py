"""Adaptive clipping inside the secure round: the clip moves to its quantile, costs what the multiplier says, and is off unless asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import secure_world as world
from family_changes import family
from msgspec import ValidationError, structs
from secure_world import ARRAYS, ASSESS_LAYOUT, FIT_LAYOUT, PARAMETERS, QUESTION, World

from aggregator.errors import PrivacyPlanError
from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.ledger_entries import PoissonCohort, RoundClosed, Sampling
from aggregator.privacy.settings import FamilyBudget, NoiseSettings, PrivacySettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import CohortSum, QuorumMissedError
from aggregator.rounds.sum_policy import SumPolicy
from protocol.errors import QuestionError
from protocol.privacy_cost import epsilon, planned_cost
from protocol.questions import ASSESS, FIT
from protocol.secure_answers import NoisedEncoding, make_encoding
from protocol.sum_terms import NoiseTerms, SumStage, SumTerms, decode_terms, encode_terms

START = AdaptiveClip(clip=0.2, quantile=0.5)
FIXED = NoiseSettings(noise_multiplier=0.1, clip=0.2)
NOISE = structs.replace(FIXED, adaptive_clip=True)
COUNT = 6


def policy(noise: NoiseSettings) -> SumPolicy:
    privacy = PrivacySettings(noise=noise, budget=FamilyBudget(delta=1e-5))
    return replace(world.POLICY, privacy=privacy)


def update_of_norm(norm: float) -> np.ndarray:
    return FIT_LAYOUT.pack(
        {"update": np.full(PARAMETERS, norm / math.sqrt(PARAMETERS)), "votes": np.array([1.0])}
    )


def collect(w: World, *, number: int = 1, quorum: int = COUNT, sampling: Sampling | None = None) -> CohortSum:
    return w.collector().collect(
        CohortQuestion(
            question=msgspec.structs.replace(QUESTION, round_number=number),
            arrays=ARRAYS,
            layout=FIT_LAYOUT,
            admission=admit_update(norm_limit=10.0),
        ),
        Cohort(devices=tuple(w.devices), quorum=quorum, sampling=sampling),
        deadline_s=5.0,
    )


def closings(w: World) -> list[RoundClosed]:
    return [held.closed for held in w.accounts.rounds(world.FAMILY) if held.closed is not None]


def terms(noise: NoiseSettings, *, devices: int, kind: str = FIT) -> SumTerms:
    return policy(noise).terms(
        run_id="run-1",
        kind=kind,
        number=1,
        layout=FIT_LAYOUT if kind == FIT else ASSESS_LAYOUT,
        devices=devices,
        quorum=devices,
        rotation_seed="0" * 32,
    )


@pytest.mark.parametrize(("norm", "direction"), [(5.0, 1), (0.001, -1)])
def test_clip_moves_towards_the_norms_and_the_next_round_uses_it(
    tmp_path: Path, norm: float, direction: int
) -> None:
    w = World(tmp_path, COUNT, policy=policy(NOISE), answers=lambda _: update_of_norm(norm))
    for number in (1, 2, 3):
        collect(w, number=number)
    clips = [START.clip, *(closed.next_clip or 0.0 for closed in closings(w))]
    # All are on one side, so each step is the largest: exp(±0.2·0.5), but for the bits' noise.
    steps = np.diff(np.log(clips)) * direction
    noise = START.rate * clip_bit_noise(COUNT) / COUNT
    np.testing.assert_allclose(steps, 0.1, atol=5 * noise)
    used = [held.opened.noise.clip for held in w.accounts.rounds(world.FAMILY)]
    np.testing.assert_allclose(np.array(used) / used[0], np.array(clips[:-1]) / clips[0])


def test_clip_settles_where_the_wanted_share_of_the_devices_is_within(tmp_path: Path) -> None:
    # Norms 0.1, 0.2 .. 0.6: the median lies between the third and the fourth.
    w = World(tmp_path, COUNT, policy=policy(NOISE), answers=lambda index: update_of_norm(0.1 * (index + 1)))
    for number in range(1, 41):
        collect(w, number=number)
    late = [closed.next_clip for closed in closings(w)[20:]]
    assert 0.28 < float(np.median(np.array(late, float))) < 0.42


def test_clip_survives_the_aggregator_and_a_void_round_does_not_move_it(tmp_path: Path) -> None:
    w = World(tmp_path, COUNT, policy=policy(NOISE), answers=lambda _: update_of_norm(5.0))
    collect(w)
    moved = closings(w)[0].next_clip
    w.spoil = lambda kind, _device, message: None if kind == FIT else message
    with pytest.raises(QuorumMissedError):
        collect(w, number=2)
    assert closings(w)[1].next_clip is None
    assert w.accounts.current_clip(world.FAMILY, START).clip == moved


def test_noisy_number_of_devices_within_the_clip_is_as_noisy_as_announced() -> None:
    told = terms(NOISE, devices=20)
    encoding = make_encoding(FIT_LAYOUT, told)
    assert isinstance(encoding, NoisedEncoding)
    found = []
    for repeat in range(60):
        # Loud updates beside quiet ones: a long update must not shrink the bit that says so.
        answers = [update_of_norm(1000.0 if device < 5 else 0.1) for device in range(20)]
        words = np.zeros(encoding.word_count, np.uint32)
        for device, one in enumerate(answers):
            words += encoding.encode(one, world.SeededBytes(f"{repeat} {device}"))
        found.append(encoding.clip_bits(words & np.uint32((1 << encoding.word_bits) - 1), 20))
    bits = np.array(found, float)
    assert np.mean(bits) == pytest.approx(15, abs=5 * 1.0 / math.sqrt(60))
    assert np.std(bits) == pytest.approx(clip_bit_noise(20), rel=0.3)


@pytest.mark.parametrize(("share", "within"), [(0.9, COUNT), (1.1, 0)])
def test_device_compares_with_the_updates_clip_not_with_the_wider_norm_of_the_whole(
    tmp_path: Path, share: float, within: int
) -> None:
    noise = structs.replace(NOISE, noise_multiplier=0.4)
    w = World(tmp_path, COUNT, policy=policy(noise), answers=lambda _: update_of_norm(share * noise.clip))
    collect(w)
    assert closings(w)[0].clip_bits == pytest.approx(within, abs=5 * clip_bit_noise(COUNT))


def test_updates_have_the_multiplier_of_the_paper_and_their_whole_clip() -> None:
    told = terms(NOISE, devices=COUNT)
    assert told.noise is not None
    encoding = make_encoding(FIT_LAYOUT, told)
    assert isinstance(encoding, NoisedEncoding)
    wanted = update_noise_multiplier(NOISE.noise_multiplier, clip_bit_noise(COUNT))
    assert encoding.noise_std("update") == pytest.approx(wanted * NOISE.clip)
    quiet = make_encoding(FIT_LAYOUT, terms(structs.replace(NOISE, noise_multiplier=1e-6), devices=COUNT))
    words = quiet.encode(update_of_norm(NOISE.clip * 0.999), world.SeededBytes("x"))
    total = np.zeros(quiet.word_count, np.uint32)
    for _ in range(COUNT):
        total += words
    parts = FIT_LAYOUT.unpack(quiet.decode(total & np.uint32((1 << quiet.word_bits) - 1), COUNT))
    assert np.linalg.norm(parts["update"]) / COUNT == pytest.approx(NOISE.clip * 0.999, rel=1e-3)


def test_both_accounts_charge_the_bits_beside_the_updates(tmp_path: Path) -> None:
    noise = structs.replace(NOISE, noise_multiplier=0.4)
    w = World(tmp_path, COUNT, policy=policy(noise))
    collect(w)
    spent = next(iter(w.devices.values())).budget.spending().cost
    (held,) = w.accounts.rounds(world.FAMILY)
    assert epsilon(spent, 1e-5) == pytest.approx(epsilon(planned_cost(held.opened.noise), 1e-5))
    # ½z_Δ⁻² for the updates and ½(2σ_b)⁻² for the bits; rounding costs a little on top.
    bit_noise = clip_bit_noise(COUNT)
    updates = 0.5 / update_noise_multiplier(0.4, bit_noise) ** 2
    bits = 0.5 / (2 * bit_noise) ** 2
    assert bits > 0.4 * updates
    assert updates + bits == pytest.approx(0.5 / 0.4**2)
    assert updates + bits <= spent.rho <= (updates + bits) * 1.01


def test_without_the_setting_terms_and_words_are_what_they_were(tmp_path: Path) -> None:
    told = terms(FIXED, devices=COUNT)
    text = encode_terms(told)
    assert text == (
        '{"run_id":"run-1","question":"train.fit","round_number":1,"devices":6,"word_bits":20,"norm_limit":0.2,'
        '"maximum_examples":1000,"noise":{"mechanism":"discrete-gaussian","clip":0.2,'
        '"noise_multiplier":0.1,"maximum_dropouts":0,"colluders":0,"rotation_seed":"' + "0" * 32 + '",'
        '"delta":0.00001},"maximum_participations":null,"maximum_epsilon":null}'
    )
    encoding = make_encoding(FIT_LAYOUT, decode_terms(text))
    assert isinstance(encoding, NoisedEncoding)
    assert encoding.noise.dimension == PARAMETERS
    assert encoding.clip_bits(np.zeros(encoding.word_count, np.uint32), COUNT) is None
    w = World(tmp_path, COUNT, policy=policy(FIXED))
    collect(w)
    assert [(closed.clip_bits, closed.next_clip) for closed in closings(w)] == [(None, None)]


def test_assessment_asks_for_no_clip_bits() -> None:
    assert terms(NOISE, devices=COUNT, kind=ASSESS) == terms(FIXED, devices=COUNT, kind=ASSESS)


def test_terms_with_clip_bits_travel_and_are_bounded() -> None:
    told = terms(NOISE, devices=COUNT)
    assert decode_terms(encode_terms(told)) == told
    with pytest.raises(QuestionError, match="Expected `float` > 0"):
        decode_terms(encode_terms(told).replace('"clip_bit_noise":0.3', '"clip_bit_noise":-1.0'))


@pytest.mark.parametrize(
    ("bit_noise", "layout", "words"),
    [
        (0.05, FIT_LAYOUT, "must be above 0.05, half the noise_multiplier"),
        (5e-324, FIT_LAYOUT, "leaves nothing of the clip"),
        (1.0, ASSESS_LAYOUT, "clip bits are for answers with an update"),
    ],
)
def test_device_refuses_clip_bits_that_make_no_sense(bit_noise: float, layout: object, words: str) -> None:
    noise = NoiseTerms(
        clip=1.0, noise_multiplier=0.1, maximum_dropouts=0, rotation_seed="0" * 32, clip_bit_noise=bit_noise
    )
    told = SumTerms(
        run_id="r",
        question=FIT,
        round_number=1,
        devices=6,
        word_bits=20,
        norm_limit=1.0,
        maximum_examples=9,
        noise=noise,
    )
    with pytest.raises(QuestionError, match=words):
        make_encoding(layout, told)  # type: ignore[arg-type] # a layout, by the table above


def test_cohort_too_small_for_clip_bits_is_refused_before_a_device_is_asked(tmp_path: Path) -> None:
    w = World(tmp_path, COUNT, policy=policy(structs.replace(NOISE, noise_multiplier=1.0)))
    with pytest.raises(PrivacyPlanError, match="raise the cohort above 11 devices"):
        collect(w)
    assert not [kind for kind, _, _ in w.seen if kind == SumStage.ADVERTISE]


def test_settings_turn_into_the_rule() -> None:
    noise = {"noise_multiplier": 1.0, "clip": 0.3, "adaptive_clip": True, "clip_quantile": 0.8}
    found = family(cohort={"minimum_devices": 50}, privacy={"noise": noise}).sum_policy.privacy.noise
    assert found is not None
    assert found.adaptive == AdaptiveClip(clip=0.3, quantile=0.8)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({}, "missing required field `noise_multiplier`"),
        ({"noise_multiplier": 1.0}, "raise the cohort above 11 devices"),
        ({"noise_multiplier": 0.1, "clip": 1e9}, "minimum <= clip <= maximum"),
    ],
)
def test_settings_that_cannot_adapt_are_refused_with_what_would(noise: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        family(cohort={"minimum_devices": 5}, privacy={"noise": {"adaptive_clip": True, **noise}})


def test_a_clip_that_follows_coins_tells_nobody_how_many_were_drawn(tmp_path: Path) -> None:
    """All are within the clip, 12 or 16 of them: the clip falls by what the nominal size says, and by nobody's number."""
    hidden = PoissonCohort(rate=0.5, population=24, largest=18)
    moves = {}
    for size in (12, 16):
        folder = tmp_path / str(size)
        folder.mkdir()
        w = World(folder, size, policy=policy(structs.replace(NOISE, noise_multiplier=0.02)))
        for device in w.devices.values():
            device.answer = update_of_norm(0.01)
        collect(w, quorum=12, sampling=hidden)
        (held,) = w.accounts.rounds(world.FAMILY)
        assert held.closed is not None
        assert held.closed.clip_bits is not None
        # ±1/2 of each: half of those who are in it above half of those who were to be expected.
        assert held.closed.clip_bits == pytest.approx(12 / 2 + size / 2, abs=2.5)
        moves[size] = held.closed.next_clip
        assert held.closed.next_clip == pytest.approx(START.next_clip(held.closed.clip_bits, 12), rel=1e-9)
    assert all(move is not None and move < START.clip for move in moves.values())
