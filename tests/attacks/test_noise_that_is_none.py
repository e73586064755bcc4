"""Row 3: an aggregator that announces noise and means none, against an owner who requires it.

The device's real side of a sum, encoding and account. What passes is measured: the noise that devices really add, in the words that leave.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from answerers import Answers
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.learner.refusals import code_of
from edge_agent.learner.sum_participant import SumParticipant
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import ASSESS, FIT, Kind, assess_layout, fit_layout
from protocol.refusals import RefusalCode
from protocol.secure_answers import make_encoding
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DevicePolicy
from protocol.sum_terms import NoiseTerms, SumTerms, encode_terms

LAYOUTS = {FIT: fit_layout(256), ASSESS: assess_layout(3, 2)}
KEY = ec.derive_private_key(7, ec.SECP256R1())
HONEST = NoiseTerms(clip=0.5, noise_multiplier=1.0, maximum_dropouts=2, rotation_seed="ab" * 16)


class Known:
    def keys(self, expected: frozenset[DeviceId]) -> dict[DeviceId, ec.EllipticCurvePublicKey]:
        return {DeviceId("a"): KEY.public_key()}


def terms(noise: NoiseTerms | None, kind: Kind = FIT, **changes: object) -> SumTerms:
    asked = SumTerms(
        run_id="r",
        question=kind,
        round_number=1,
        devices=12,
        norm_limit=0.5,
        maximum_examples=100,
        noise=noise,
    )
    return msgspec.structs.replace(asked, **changes)


def refusal(folder: Path, asked: SumTerms, limits: OwnerLimits) -> RefusalCode | None:
    """What an advertisement for these terms comes to; None: the device takes part."""
    side = SumParticipant(
        DeviceId("a"),
        identity_key=KEY,
        roster=Known(),
        policy=DevicePolicy(),
        budget=DeviceAccount(folder / "privacy.sqlite", limits),
        learner=Answers(lambda _question, _arrays: np.zeros(1, np.float32), LAYOUTS.__getitem__),
        random_bytes=np.random.default_rng(3).bytes,
        now=lambda: 0.0,
    )
    try:
        words = make_encoding(LAYOUTS[asked.question], asked).word_count
    except Exception:  # noqa: BLE001 - terms that nobody can meet; the device says what it says
        words = 1
    announced = messages.Announcement(
        session="session-1",
        round_number=1,
        model_hash=bytes(32),
        config_hash=bytes(32),
        word_bits=asked.word_bits,
        word_count=words,
    )
    try:
        side.advertise(messages.encode(announced), encode_terms(asked))
    except Exception as failure:  # noqa: BLE001 - as the learner's app meets it
        assert not (folder / "privacy.sqlite").exists() or _charges(folder) == 0
        return code_of(failure)
    return None


def _charges(folder: Path) -> int:
    with DeviceAccount(folder / "privacy.sqlite", OwnerLimits()) as account:
        return account.spending().participations


REQUIRED = OwnerLimits(require_noise=True)


@pytest.mark.parametrize("kind", [FIT, ASSESS])
@pytest.mark.parametrize(
    "lie",
    [
        {"noise_multiplier": 1e-9},
        {"noise_multiplier": 1e-200},
        {"noise_multiplier": 0.9},
        {"noise_multiplier": 1e-9, "clip": 1e9},
        {"noise_multiplier": 1e-9, "delta": 0.999999},
        {"noise_multiplier": 1e-9, "maximum_dropouts": 11},
        {"noise_multiplier": 1e-9, "mechanism": "skellam"},
        {"noise_multiplier": 0.9, "colluders": 9},
    ],
)
def test_noise_that_is_none_is_refused_at_the_advertisement(
    tmp_path: Path, kind: Kind, lie: dict[str, object]
) -> None:
    assert refusal(tmp_path, terms(HONEST, kind), REQUIRED) is None
    lied = msgspec.structs.replace(HONEST, **lie)
    assert refusal(tmp_path, terms(lied, kind), REQUIRED) is RefusalCode.NOISE


def test_noise_on_the_clip_bit_is_no_noise_on_the_update(tmp_path: Path) -> None:
    lied = msgspec.structs.replace(HONEST, noise_multiplier=1e-9, clip_bit_noise=1e9)
    assert refusal(tmp_path, terms(lied), REQUIRED) is RefusalCode.NOISE
    # Of an assessment there is no clip bit: terms that do not belong together.
    assert refusal(tmp_path, terms(lied, ASSESS), REQUIRED) is RefusalCode.TERMS


def test_a_delta_near_one_does_not_make_an_epsilon_small(tmp_path: Path) -> None:
    lied = msgspec.structs.replace(HONEST, delta=0.999999)
    asked = terms(lied, maximum_epsilon=1e6)
    assert (
        refusal(tmp_path, asked, OwnerLimits(require_noise=True, maximum_epsilon=4.0)) is RefusalCode.BUDGET
    )


def test_colluders_that_are_announced_as_none_are_the_owners_to_assume(tmp_path: Path) -> None:
    wary = OwnerLimits(require_noise=True, colluding_share=0.25, maximum_epsilon=20.0)
    assert refusal(tmp_path, terms(HONEST), wary) is RefusalCode.NOISE
    planned = msgspec.structs.replace(HONEST, colluders=2)
    assert refusal(tmp_path, terms(planned), wary) is None


def test_whatever_passes_carries_the_noise_that_the_owner_asks_for(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    passed = 0
    for number in range(24):
        lied = NoiseTerms(
            mechanism=("discrete-gaussian", "skellam")[number % 2],
            clip=float(10.0 ** draw.uniform(-6, 6)),
            noise_multiplier=float(10.0 ** draw.uniform(-1, 0.7)),
            maximum_dropouts=int(draw.integers(0, 8)),
            colluders=int(draw.integers(0, 4)),
            rotation_seed="ab" * 16,
            delta=float(draw.choice([1e-9, 0.5, 0.9999])),
        )
        asked = terms(lied, word_bits=int(draw.integers(8, 20)))
        folder = tmp_path / str(number)
        folder.mkdir()
        if refusal(folder, asked, OwnerLimits(require_noise=True, maximum_epsilon=100.0)) is not None:
            continue
        passed += 1
        encoding = make_encoding(LAYOUTS[FIT], asked)
        half, whole = 2 ** (asked.word_bits - 1), 2**asked.word_bits
        drawn = np.concatenate(
            [
                encoding.encode(np.zeros(LAYOUTS[FIT].total, np.float32), draw.bytes).astype(np.int64)
                for _ in range(4)
            ]
        )
        std = float(np.std((drawn + half) % whole - half))
        honest = asked.devices - lied.maximum_dropouts - lied.colluders
        assert encoding.noise.sensitivity is not None
        assert std * math.sqrt(honest) / encoding.noise.sensitivity > 0.9, asked
    assert passed >= 5
