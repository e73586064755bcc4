"""The privacy claims of fixed stories, held fast figure by figure and word by word: data-protection officers read them.

After a deliberate change write the golden file anew with ``python tests/aggregator/test_privacy_golden.py`` and look at its diff.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ledger_world import (
    FAMILY,
    SILENT,
    accounts_at,
    devices,
    fixed,
    gaussian,
    play,
    poisson,
    question,
    round_id,
)

from aggregator.errors import LedgerError, PrivacyPlanError
from aggregator.privacy.accounts import FamilyBudget, PrivacyAccounts
from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.claim_text import explain
from aggregator.privacy.ledger_entries import Outcome, Sampling
from protocol.names import FamilyName, RunId
from protocol.privacy_cost import RoundNoise

GOLDEN = Path(__file__).parent / "golden" / "privacy_claims.txt"
COHORT = devices(12)
NOISE = gaussian(1.2, cohort=12, dropouts=3, colluders=1)
COARSE = gaussian(0.8, cohort=12, dropouts=2, bits=16, clip=0.5)
SKELLAM = msgspec.structs.replace(NOISE, mechanism="skellam")
STORIES: dict[str, tuple[tuple[RoundNoise, ...], Sampling, FamilyBudget | None]] = {
    "everybody": ((NOISE, NOISE), fixed(12, 12), FamilyBudget(delta=1e-5, maximum_participations=8)),
    "drawn in secret": ((NOISE, COARSE), fixed(12, 40), None),
    "drawn openly": ((SKELLAM,), fixed(12, 40, is_secret=False), None),
    "poisson": ((NOISE, COARSE), poisson(0.02, 900), FamilyBudget(delta=0.002)),
    "with a silent sum": ((NOISE, SILENT), fixed(12, 12), None),
    "without noise": ((SILENT,), fixed(12, 12), None),
    "nothing yet": ((), fixed(12, 12), None),
}


def told(folder: Path, name: str) -> PrivacyAccounts:
    """The accounts at the end of a story: of two runs, with a void, a withheld and an open round."""
    noises, sampling, budget = STORIES[name]
    accounts = accounts_at(folder, budget)
    for run in ("run-1", "run-2"):
        for number, noise in enumerate(noises, start=1):
            there = COHORT[number - 1 :] if run == "run-2" else COHORT
            play(accounts, number, COHORT, participants=there, run=run, noise=noise, sampling=sampling)
    if noises:
        shared = {"noise": noises[0], "sampling": sampling}
        play(accounts, 7, COHORT, outcome=Outcome.VOID, run="run-2", **shared)  # type: ignore[arg-type]
        play(accounts, 8, COHORT, outcome=Outcome.WITHHELD, participants=COHORT[:5], run="run-2", **shared)  # type: ignore[arg-type]
        accounts.open_round(round_id(9, run="run-2"), FAMILY, cohort=COHORT, **shared)  # type: ignore[arg-type]
    return accounts


def golden_lines() -> Iterator[str]:
    for name in STORIES:
        with tempfile.TemporaryDirectory() as folder:
            accounts = told(Path(folder), name)
            claim = accounts.claim(FAMILY, RunId("run-2"))
            yield f"=== {name}"
            for field, value in msgspec.structs.asdict(claim).items():
                if field not in {
                    "not_covered",
                    "ledger_sha256",
                }:  # the first is in the text, the other in test_privacy_ledger
                    yield f"{field}: {rounded(value)}"
            text = explain(claim, "the pump's release 3").replace(claim.ledger_sha256, "…").splitlines()
            yield from (line.partition(" Computed by:")[0] for line in text)


def rounded(value: object) -> object:
    """The same with six digits, which every machine agrees on."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case msgspec.Struct():
            fields = msgspec.structs.asdict(value).items()
            return {key: rounded(each) for key, each in fields if key not in {"accountant", "adversary"}}
        case _:
            return value


@pytest.mark.slow
def test_the_claims_of_fixed_stories_are_the_ones_that_were_written_down() -> None:
    assert list(golden_lines()) == GOLDEN.read_text().splitlines()


def test_the_next_attempt_is_counted_in_the_ledger_question_by_question(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)

    def next_attempt(number: int = 1, asked: str = "train.fit", run: str = "run-1") -> int:
        return accounts.next_attempt(FAMILY, RunId(run), asked, number).attempt

    assert next_attempt() == 1
    for attempt in (1, 2):
        accounts.open_round(
            round_id(1, attempt=attempt), FAMILY, noise=NOISE, sampling=fixed(12, 12), cohort=COHORT
        )
    assert next_attempt() == 3
    assert (next_attempt(number=2), next_attempt(asked="evaluate.assess"), next_attempt(run="run-2")) == (
        1,
        1,
        1,
    )


def test_a_plan_without_noise_is_written_down_without_a_figure(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    for run, noise in (("run-1", NOISE), ("run-2", SILENT)):
        accounts.plan_run(RunId(run), FAMILY, [question(2, noise, fixed(12, 12))])
    noised, silent = (accounts._history.planned(RunId(run)) for run in ("run-1", "run-2"))
    assert noised is not None
    assert silent is not None
    assert noised.epsilon_server is not None
    assert noised.epsilon_release is not None
    assert (silent.epsilon_server, silent.epsilon_release) == (None, None)
    assert (noised.rounds, noised.budget) == (2, FamilyBudget())


def test_the_latest_run_is_the_one_last_planned_or_asked(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    with pytest.raises(LedgerError, match="holds nothing of family 'motor'; it knows none yet"):
        accounts.latest_run(FAMILY)
    accounts.plan_run(RunId("run-1"), FAMILY, [question(1, NOISE, fixed(12, 12))])
    assert accounts.latest_run(FAMILY) == "run-1"
    with pytest.raises(LedgerError, match="family 'fan'; it knows motor"):
        accounts.latest_run(FamilyName("fan"))


# --- adaptive clipping -----------------------------------------------------------------------------------------------------------


def test_the_clip_moves_by_the_papers_step_towards_its_quantile_and_stays_within_its_bounds() -> None:
    clip = AdaptiveClip(clip=1.0)
    assert (clip.quantile, clip.rate, clip.minimum, clip.maximum) == (0.5, 0.2, 1e-6, 1e6)
    assert clip.next_clip(5, 10) == 1.0
    # Algorithm 1 of arXiv:1905.03871v5: C · exp(-0.2 · (b - 1/2)).
    assert clip.next_clip(10, 10) == pytest.approx(2.718281828**-0.1)
    assert clip.next_clip(0, 10) == pytest.approx(2.718281828**0.1)
    bounded = AdaptiveClip(clip=1.0, minimum=0.95, maximum=1.05)
    assert (bounded.next_clip(10, 10), bounded.next_clip(0, 10)) == (0.95, 1.05)
    assert [bounded.at(value).clip for value in (0.5, 1.0, 2.0)] == [0.95, 1.0, 1.05]


@pytest.mark.parametrize(
    "edge", [{"minimum": 1.0}, {"maximum": 1.0}, {"rate": 1.0}, {"quantile": 0.001}, {"quantile": 0.999}]
)
def test_an_adaptive_clip_at_the_edge_of_its_ranges_settles(edge: dict[str, float]) -> None:
    AdaptiveClip(clip=1.0, **edge)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0},
        {"minimum": 0.0},
        {"minimum": 1.1},
        {"maximum": 0.9},
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"rate": 0.0},
        {"rate": 1.1},
    ],
)
def test_an_adaptive_clip_that_would_never_settle_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(
        PrivacyPlanError, match="0 < minimum <= clip <= maximum, 0 < quantile < 1 and 0 < rate <= 1"
    ):
        AdaptiveClip(**{"clip": 1.0, **wrong})


def test_the_bits_are_paid_for_out_of_the_same_multiplier() -> None:
    assert clip_bit_noise(100) == 5.0
    # Theorem 1: z_Δ = (z⁻² - (2σ_b)⁻²)^(-1/2).
    assert update_noise_multiplier(1.0, 5.0) == pytest.approx((1 - 0.01) ** -0.5)
    assert update_noise_multiplier(3.0, 2.0) == pytest.approx((1 / 9 - 1 / 16) ** -0.5)
    for bit_noise in (0.5, 0.25):
        with pytest.raises(PrivacyPlanError, match="above 11 devices, lower noise_multiplier below"):
            update_noise_multiplier(1.0, bit_noise)


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()))
