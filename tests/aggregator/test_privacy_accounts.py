"""The accounts: runs that do not fit are refused with advice that works, rounds stop before the budget, void ones are free."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import pytest
from ledger_world import (
    COHORT,
    EVERYBODY,
    FAMILY,
    SILENT,
    accounts_at,
    gaussian,
    play,
    poisson,
    question,
    round_id,
)
from msgspec import structs

from aggregator.errors import LedgerError, PrivacyBudgetError
from aggregator.privacy.accounts import LEDGER_FILE, PlannedQuestion
from aggregator.privacy.adaptive_clipping import AdaptiveClip
from aggregator.privacy.advice import _more_noise, with_more_noise
from aggregator.privacy.ledger_entries import Outcome, PoissonCohort
from aggregator.privacy.settings import FamilyBudget, NoiseSettings
from protocol.names import FamilyName, RunId
from service.restored_note import RestoredNote, accept_restored_note, write_restored_note

NOISE = gaussian(1.0, cohort=20, dropouts=4)
RUN = RunId("run-1")


def test_a_run_that_fits_is_admitted_and_ends_at_its_projection(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path, FamilyBudget(epsilon_server=40, epsilon_release=100))
    promised = accounts.plan_run(RUN, FAMILY, [question(5, NOISE, EVERYBODY)])
    for number in range(1, 6):
        play(accounts, number, COHORT, noise=NOISE, sampling=EVERYBODY, participants=COHORT[:16])
    spent = accounts.figures(FAMILY)
    assert spent.server == pytest.approx(promised.server, rel=1e-9)
    assert spent.release == pytest.approx(promised.release, rel=1e-9)


def test_a_ledger_that_came_back_from_a_backup_admits_no_limited_run_until_a_person_accepts_it(
    tmp_path: Path,
) -> None:
    accounts = accounts_at(tmp_path, FamilyBudget(epsilon_server=40, epsilon_release=100))
    folder = next(tmp_path.rglob(LEDGER_FILE)).parent
    accounts.plan_run(RUN, FAMILY, [question(2, NOISE, EVERYBODY)])
    write_restored_note(folder, RestoredNote(made_at=86400.0, restored_at=2e5))
    with pytest.raises(
        PrivacyBudgetError, match=r"a backup of 1970-01-02 00:00 UTC.*fedge-aggregator accept-restored"
    ):
        accounts.plan_run(RunId("run-2"), FAMILY, [question(2, NOISE, EVERYBODY)])
    accounts.plan_run(RUN, FAMILY, [question(2, NOISE, EVERYBODY)])  # one that was admitted before goes on
    assert accept_restored_note(folder).startswith("accepted")
    assert accept_restored_note(folder).startswith("nothing was restored")
    accounts.plan_run(RunId("run-2"), FAMILY, [question(2, NOISE, EVERYBODY)])


def test_a_run_without_limits_is_admitted_even_without_noise(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    assert math.isinf(accounts.plan_run(RUN, FAMILY, [question(5, SILENT, EVERYBODY)]).server)
    assert accounts.latest_run(FAMILY) == RUN


@pytest.mark.parametrize("sampling", [poisson(0.2, 100), EVERYBODY])
def test_each_piece_of_advice_makes_the_refused_run_fit(tmp_path: Path, sampling: object) -> None:
    budget = FamilyBudget(epsilon_server=12, epsilon_release=30, maximum_participations=30)
    asked = question(40, NOISE, sampling)  # type: ignore[arg-type]
    with pytest.raises(PrivacyBudgetError) as refusal:
        accounts_at(tmp_path / "a", budget).plan_run(RUN, FAMILY, [asked])
    words = str(refusal.value)
    assert "run run-1 of family 'motor' would bring epsilon_server to" in words
    assert "the budget is 12" in words
    assert "(delta 1e-06)" in words

    noise = float(found(r"noise_multiplier ([\d.]+) instead of 1", words))
    rounds = int(found(r"; rounds\.count (\d+) instead of 40", words))
    cap = int(found(r"maximum_participations (\d+) instead of 30", words))
    raised = dict(re.findall(r"(epsilon_\w+) = ([\d.]+)", words))
    assert "epsilon_server" in raised
    louder = gaussian(noise, cohort=20, dropouts=4)
    accounts_at(tmp_path / "b", budget).plan_run(RUN, FAMILY, [question(40, louder, asked.sampling)])
    accounts_at(tmp_path / "c", budget).plan_run(RUN, FAMILY, [question(rounds, NOISE, asked.sampling)])
    accounts_at(tmp_path / "d", structs.replace(budget, maximum_participations=cap)).plan_run(
        RUN, FAMILY, [asked]
    )
    wider = structs.replace(budget, **{name: float(value) for name, value in raised.items()})
    accounts_at(tmp_path / "e", wider).plan_run(RUN, FAMILY, [asked])

    # And it is the nearest that fits, not merely something large.
    with pytest.raises(PrivacyBudgetError):
        accounts_at(tmp_path / "f", budget).plan_run(
            RUN, FAMILY, [question(rounds + 1, NOISE, asked.sampling)]
        )
    quieter = with_more_noise(NOISE, noise * 0.97)
    with pytest.raises(PrivacyBudgetError):
        accounts_at(tmp_path / "g", budget).plan_run(RUN, FAMILY, [question(40, quieter, asked.sampling)])


def found(pattern: str, words: str) -> str:
    match = re.search(pattern, words)
    assert match, f"{pattern} is not in: {words}"
    return match.group(1)


def test_a_question_without_noise_fits_into_no_budget_and_is_named(tmp_path: Path) -> None:
    silent = PlannedQuestion(question="evaluate.assess", rounds=1, noise=SILENT, sampling=EVERYBODY)
    with pytest.raises(
        PrivacyBudgetError, match=r"ask evaluate\.assess with noise \(noise_multiplier, clip\)"
    ):
        accounts_at(tmp_path, FamilyBudget(epsilon_server=100)).plan_run(
            RUN, FAMILY, [question(1, NOISE, EVERYBODY), silent]
        )


def test_a_family_that_has_spent_its_budget_is_told_so(tmp_path: Path) -> None:
    play(accounts_at(tmp_path), 1, COHORT, noise=NOISE, sampling=EVERYBODY)
    with pytest.raises(PrivacyBudgetError, match="the budget is spent already: no run fits"):
        accounts_at(tmp_path, FamilyBudget(epsilon_server=1)).plan_run(
            RunId("run-2"), FAMILY, [question(1, NOISE, EVERYBODY)]
        )


def test_a_run_is_stopped_before_its_budget_is_exceeded(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path, FamilyBudget(epsilon_server=12))
    refusals = []
    for number in range(1, 20):
        try:
            play(accounts, number, COHORT, noise=NOISE, sampling=EVERYBODY)
        except PrivacyBudgetError as refusal:
            refusals.append(str(refusal))
        assert accounts.figures(FAMILY).server <= 12
    assert 10 < len(refusals) < 18
    assert (
        "no device was asked. End the run here, or raise [family.privacy.budget] to at least epsilon_server = 1"
        in refusals[0]
    )
    assert "epsilon_release" not in refusals[0]
    assert len(accounts.rounds(FAMILY)) + len(refusals) == 19, "a refused round is not in the ledger"


def test_the_cap_that_devices_enforce_bounds_the_projection(tmp_path: Path) -> None:
    capped = FamilyBudget(epsilon_server=20, maximum_participations=5)
    figure = accounts_at(tmp_path / "a", capped).plan_run(RUN, FAMILY, [question(100, NOISE, EVERYBODY)])
    five = accounts_at(tmp_path / "b").plan_run(RUN, FAMILY, [question(5, NOISE, EVERYBODY)])
    assert figure.server == five.server


def test_rounds_that_were_given_already_are_taken_off_the_cap(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path / "a", FamilyBudget(maximum_participations=5))
    for number in range(1, 5):
        play(accounts, number, COHORT, noise=NOISE, sampling=EVERYBODY, participants=COHORT[:16])
    figure = accounts.plan_run(RUN, FAMILY, [question(100, NOISE, EVERYBODY)])
    five = accounts_at(tmp_path / "b").plan_run(RUN, FAMILY, [question(5, NOISE, EVERYBODY)])
    assert figure.server == pytest.approx(five.server, rel=1e-12)


def test_what_devices_gave_before_counts_in_the_projection(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    fresh = accounts.plan_run(RUN, FAMILY, [question(3, NOISE, EVERYBODY)])
    play(accounts, 1, COHORT[:1], noise=gaussian(cohort=1), sampling=EVERYBODY)
    assert accounts.plan_run(RunId("run-2"), FAMILY, [question(3, NOISE, EVERYBODY)]).server > fresh.server


def test_an_open_round_counts_at_its_worst_until_it_is_closed(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    accounts.open_round(round_id(1), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    open_figure = accounts.figures(FAMILY)
    accounts.close_round(round_id(1), Outcome.USED, participants=COHORT[:18])
    closed_figure = accounts.figures(FAMILY)
    assert 0 < closed_figure.server < open_figure.server


def test_a_void_round_costs_nothing(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY, outcome=Outcome.VOID)
    assert accounts.figures(FAMILY).server == accounts.figures(FAMILY).release == 0


def test_a_withheld_sum_costs_towards_the_server_alone_and_at_its_realised_noise(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    play(
        accounts,
        1,
        COHORT,
        noise=NOISE,
        sampling=EVERYBODY,
        outcome=Outcome.WITHHELD,
        participants=COHORT[:4],
    )
    assert accounts.figures(FAMILY).release == 0
    planned = accounts_at(tmp_path / "b").plan_run(RUN, FAMILY, [question(1, NOISE, EVERYBODY)])
    assert accounts.figures(FAMILY).server > planned.server


def test_an_under_noised_sum_cannot_be_used(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    accounts.open_round(round_id(1), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    with pytest.raises(LedgerError, match="15 participants, its noise was planned for 16 or more"):
        accounts.close_round(round_id(1), Outcome.USED, participants=COHORT[:15])
    assert accounts.rounds(FAMILY)[0].is_open


def test_those_whose_noise_the_aggregator_may_know_count_on_top(tmp_path: Path) -> None:
    accounts, wary = accounts_at(tmp_path), gaussian(cohort=20, dropouts=2, colluders=3)
    assert (wary.noise_shares, wary.colluders) == (15, 3)
    accounts.open_round(round_id(1), FAMILY, noise=wary, sampling=EVERYBODY, cohort=COHORT)
    with pytest.raises(LedgerError, match="17 participants, its noise was planned for 18 or more"):
        accounts.close_round(round_id(1), Outcome.USED, participants=COHORT[:17])
    accounts.close_round(round_id(1), Outcome.USED, participants=COHORT[:18])


@pytest.mark.parametrize(
    ("outcome", "participants", "words"),
    [
        (Outcome.USED, (), "used with 0 participants"),
        (Outcome.VOID, COHORT[:3], "void with 3 participants"),
        (Outcome.USED, (*COHORT[:16], "stranger"), "these were not: \\['stranger'\\]"),
        (Outcome.USED, (*COHORT[:16], COHORT[0]), "each once"),
    ],
)
def test_an_end_that_contradicts_itself_is_refused(
    tmp_path: Path, outcome: Outcome, participants: tuple[str, ...], words: str
) -> None:
    accounts = accounts_at(tmp_path)
    accounts.open_round(round_id(1), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    with pytest.raises(LedgerError, match=words):
        accounts.close_round(round_id(1), outcome, participants=participants)  # type: ignore[arg-type]


def test_an_attempt_is_opened_and_closed_once(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    with pytest.raises(LedgerError, match=r"run-1 train.fit 1\.1 was never opened"):
        accounts.close_round(round_id(1), Outcome.VOID)
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY)
    with pytest.raises(LedgerError, match="is closed already"):
        accounts.close_round(round_id(1), Outcome.VOID)
    with pytest.raises(LedgerError, match="a repeated round is a new attempt with fresh secrets"):
        accounts.open_round(round_id(1), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
    accounts.open_round(round_id(1, attempt=2), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)


@pytest.mark.parametrize("cohort", [(), (COHORT[0], COHORT[0])])
def test_a_cohort_names_each_device_once(tmp_path: Path, cohort: tuple[str, ...]) -> None:
    with pytest.raises(LedgerError, match="must name each device of its cohort once"):
        accounts_at(tmp_path).open_round(
            round_id(1),
            FAMILY,
            noise=NOISE,
            sampling=EVERYBODY,
            cohort=cohort,  # type: ignore[arg-type]
        )


def test_everything_is_there_after_a_restart_limits_too(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path, FamilyBudget(epsilon_server=30, delta=1e-5))
    accounts.plan_run(RUN, FAMILY, [question(3, NOISE, EVERYBODY)])
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY)
    before, claim = accounts.figures(FAMILY), accounts.claim(FAMILY, RUN)
    accounts.close()
    again = accounts_at(tmp_path, read_only=True)
    assert again.figures(FAMILY) == before
    assert again.claim(FAMILY, RUN) == claim
    assert again.budget(FAMILY).epsilon_server == 30


def test_planning_the_same_run_again_after_a_restart_records_nothing(tmp_path: Path) -> None:
    budget = FamilyBudget(epsilon_server=30)
    accounts = accounts_at(tmp_path, budget)
    accounts.plan_run(RUN, FAMILY, [question(3, NOISE, EVERYBODY)])
    for number in (1, 2, 3):
        play(accounts, number, COHORT, noise=NOISE, sampling=EVERYBODY)
    accounts.close()
    again = accounts_at(tmp_path, budget)
    entries = again.claim(FAMILY, RUN).ledger_entries
    again.plan_run(RUN, FAMILY, [question(3, NOISE, EVERYBODY)])
    assert again.claim(FAMILY, RUN).ledger_entries == entries


def test_families_do_not_share_a_budget(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    play(accounts, 1, COHORT, noise=NOISE, sampling=EVERYBODY)
    assert accounts.figures(FamilyName("pump")).server == 0
    with pytest.raises(LedgerError, match="holds nothing of family 'pump'; it knows motor"):
        accounts.latest_run(FamilyName("pump"))


def test_the_adapted_clip_survives_a_restart_and_a_void_round_does_not_move_it(tmp_path: Path) -> None:
    start = AdaptiveClip(clip=1.0)
    accounts = accounts_at(tmp_path)
    assert accounts.current_clip(FAMILY, start) == start
    for number, (outcome, clip) in enumerate(
        [(Outcome.USED, 0.7), (Outcome.USED, 1.5), (Outcome.VOID, None), (Outcome.WITHHELD, 9.0)], 1
    ):
        accounts.open_round(round_id(number), FAMILY, noise=NOISE, sampling=EVERYBODY, cohort=COHORT)
        there = () if outcome is Outcome.VOID else COHORT
        accounts.close_round(round_id(number), outcome, participants=there, next_clip=clip)
    accounts.close()
    assert accounts_at(tmp_path).current_clip(FAMILY, start).clip == 1.5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"delta": 0.0}, "delta must be between 0 and 1"),
        ({"delta": 1.0}, "delta must be between 0 and 1"),
        ({"epsilon_server": 0.0}, "epsilon_server must be positive"),
        ({"epsilon_release": math.nan}, "epsilon_release must be positive"),
        ({"maximum_participations": 0}, "maximum_participations must be positive"),
    ],
)
def test_limits_that_mean_nothing_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FamilyBudget(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (NoiseSettings, {"noise_multiplier": 1.0, "bits": 7}),
        (NoiseSettings, {"noise_multiplier": 1.0, "bits": 33}),
        (NoiseSettings, {"noise_multiplier": 0.0}),
        (PoissonCohort, {"type": "poisson", "rate": 0.1, "population": 0}),
        (PoissonCohort, {"type": "poisson", "rate": 0.0, "population": 1}),
        (PoissonCohort, {"type": "poisson", "rate": 1.1, "population": 1}),
    ],
)
def test_a_setting_outside_its_range_is_not_read(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, kind)


def test_a_setting_at_the_end_of_its_range_is_read() -> None:
    assert {
        msgspec.convert({"noise_multiplier": 1.0, "bits": bits}, NoiseSettings).bits for bits in (8, 32)
    } == {8, 32}
    assert NoiseSettings(noise_multiplier=1.0).bits == 20
    assert msgspec.convert({"type": "poisson", "rate": 1.0, "population": 1}, PoissonCohort).population == 1


@pytest.mark.parametrize(
    ("enough", "advice"),
    [
        (1.5, "privacy.noise.noise_multiplier 1.52 instead of 1"),
        (3.0, "privacy.noise.noise_multiplier 3.04 instead of 1"),
        (63.0, "privacy.noise.noise_multiplier 63.78 instead of 1"),
        (65.0, ""),
    ],
)
def test_more_noise_is_advised_to_the_percent_and_up_to_64_times_as_much(enough: float, advice: str) -> None:
    planned = [question(1, gaussian(1.0), EVERYBODY)]
    found = _more_noise(planned, lambda changed: changed[0].noise.noise_multiplier >= enough)
    assert found == advice
