"""Claims: every field says what the ledger holds; the command shows them to people and checks them against the ledger."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_world import (
    COHORT,
    EVERYBODY,
    FAMILY,
    NOISE,
    SILENT,
    accounts_at,
    play,
    poisson,
    question,
    release_of,
    round_id,
)
from msgspec import structs
from typer.testing import CliRunner

from aggregator.cli import cli
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.claim_text import explain
from aggregator.privacy.claims import plain_claim
from aggregator.privacy.ledger_entries import Outcome
from aggregator.privacy.modes import who_learns_what
from aggregator.privacy.settings import FamilyBudget
from aggregator.release_keys import create_key_files
from protocol.manifest import Provenance
from protocol.names import DeviceId, RunId
from protocol.privacy_claim import Mode, PrivacyClaim

RUN = RunId("run-2")


def played(
    folder: Path, *, sampling: object = EVERYBODY, budget: FamilyBudget | None = None
) -> PrivacyAccounts:
    """Two runs: one round of run-1; two used, a void, a withheld and an open one of run-2."""
    accounts = accounts_at(folder, budget)
    for run, count in (("run-1", 1), ("run-2", 3)):
        accounts.plan_run(RunId(run), FAMILY, [question(count, NOISE, sampling)])  # type: ignore[arg-type]
    shared = {"noise": NOISE, "sampling": sampling}
    play(accounts, 1, COHORT, run="run-1", **shared)  # type: ignore[arg-type]
    play(accounts, 1, COHORT, participants=COHORT[:18], run="run-2", **shared)  # type: ignore[arg-type]
    play(accounts, 2, COHORT, outcome=Outcome.VOID, run="run-2", **shared)  # type: ignore[arg-type]
    play(accounts, 3, COHORT, outcome=Outcome.WITHHELD, participants=COHORT[:9], run="run-2", **shared)  # type: ignore[arg-type]
    play(accounts, 4, COHORT, participants=COHORT[1:17], run="run-2", **shared)  # type: ignore[arg-type]
    accounts.open_round(round_id(5, run="run-2"), FAMILY, cohort=COHORT, **shared)  # type: ignore[arg-type]
    return accounts


def test_a_claim_says_what_happened(tmp_path: Path) -> None:
    accounts = played(tmp_path, budget=FamilyBudget(maximum_participations=30, delta=1e-5))
    claim = accounts.claim(FAMILY, RUN)
    rounds = claim.rounds
    assert (rounds.used, rounds.void, rounds.withheld, rounds.open) == (3, 1, 1, 1)
    assert (rounds.dropouts, rounds.worst_dropouts) == (2 + 11 + 4, 11)
    assert (claim.devices, claim.participations, claim.maximum_participations) == (20, 5, 30)
    assert (claim.bits, claim.clip, claim.colluders, claim.delta) == (32, 1.0, 2, 1e-5)
    # 9 survivors, of whom 2 may collude, carry 7 of the 14 shares that z = 1 was planned with.
    assert claim.noise_multiplier == pytest.approx((7 / 14) ** 0.5, rel=0.01)
    assert claim.noiseless_questions == ()
    assert claim.ledger_entries == 2 + 2 * 5 + 1


def test_a_claim_counts_the_whole_family_and_its_own_run_beside_it(tmp_path: Path) -> None:
    claim = played(tmp_path).claim(FAMILY, RUN)
    for figure in (claim.server, claim.release):
        assert figure.epsilon is not None
        assert figure.run_epsilon is not None
        assert 0 < figure.run_epsilon < figure.epsilon
    assert claim.server.idealised_epsilon is not None
    assert claim.server.epsilon is not None
    assert claim.server.idealised_epsilon < claim.server.epsilon


def test_only_poisson_sampling_gives_a_small_figure_under_presence_or_absence(tmp_path: Path) -> None:
    secret = played(tmp_path / "a", sampling=poisson(0.02, 1000)).claim(FAMILY, RUN)
    known = played(tmp_path / "b").claim(FAMILY, RUN)
    assert secret.release.epsilon is not None
    assert known.release.epsilon is not None
    assert secret.release.epsilon < known.release.epsilon
    assert secret.server.epsilon is not None
    assert known.server.epsilon is not None
    # Sampling hides nobody from the server; which device was drawn most often is not said, so the figure is of one that was always.
    assert secret.server.epsilon >= known.server.epsilon
    assert "replaced" in known.release.adjacency
    assert "replaced" not in secret.release.adjacency
    assert "no figure rests on secret sampling" in known.sampling_enforced_by


def test_a_single_sum_without_noise_makes_the_claim_unlimited_and_is_named(tmp_path: Path) -> None:
    accounts = played(tmp_path)
    accounts.open_round(
        round_id(1, run="run-2", asked="evaluate.assess"),
        FAMILY,
        noise=SILENT,
        sampling=EVERYBODY,
        cohort=COHORT,
    )
    claim = accounts.claim(FAMILY, RUN)
    assert claim.server.epsilon is claim.release.epsilon is claim.server.run_epsilon is None
    assert claim.server.noised_epsilon is not None
    assert claim.noiseless_questions == ("evaluate.assess",)
    assert claim.noise_multiplier == 0
    words = explain(claim, "it")
    assert "No differential privacy: epsilon is unlimited" in words
    assert "(evaluate.assess)" in words
    assert "that is a comparison, not a promise" in words


def test_a_family_without_rounds_claims_nothing(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    accounts.plan_run(RUN, FAMILY, [question(1, NOISE, EVERYBODY)])
    claim = accounts.claim(FAMILY, RUN)
    assert (claim.server.epsilon, claim.release.epsilon, claim.devices) == (0, 0, 0)
    assert claim.mechanism == "no round yet"


def test_a_delta_too_large_for_the_fleet_is_owned_up_to(tmp_path: Path) -> None:
    claim = played(tmp_path, budget=FamilyBudget(delta=0.1)).claim(FAMILY, RUN)
    assert any("no smaller than one over the 20 devices" in item for item in claim.not_covered)


def test_the_words_give_both_figures_to_whom_they_apply_and_what_is_not_covered(tmp_path: Path) -> None:
    claim = played(tmp_path, sampling=poisson(0.02, 1000)).claim(FAMILY, RUN)
    words = explain(claim, "release motor/2")
    assert words.startswith("Privacy of release motor/2\n")
    for part in (
        f"epsilon = {claim.server.epsilon:.3g} at delta",
        f"epsilon = {claim.release.epsilon:.3g} at delta",
        "What is NOT covered",
        "an aggregator and a fleet in one dishonest hand"[1:],
        "1 never closed, counted as used",
        claim.ledger_sha256,
        *(item[1:] for item in claim.not_covered),
    ):
        assert part in words


def test_a_claim_travels_in_json_without_loss(tmp_path: Path) -> None:
    claim = played(tmp_path).claim(FAMILY, RUN)
    assert msgspec.json.decode(msgspec.json.encode(claim), type=PrivacyClaim) == claim


# --- fedge-aggregator privacy


def config_in(folder: Path, families: tuple[str, ...] = ("motor",)) -> Path:
    create_key_files(folder / "release.key", Ed25519PrivateKey.generate())
    sections = "".join(f'[[family]]\nname = "{name}"\n' for name in families)
    config = folder / "aggregator.toml"
    config.write_text(
        'tls_cert = "c.pem"\ntls_key = "k.pem"\ndata_dir = "data"\ntenant = "demo"\nsigning_key = "release.key"\n'
        '[fleet]\nurl = "https://127.0.0.1:1"\nca_file = "ca.pem"\ntoken_file = "t"\n[mqtt]\nurl = "mqtt://127.0.0.1:1"\n'
        + sections
    )
    return config


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["privacy", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_shows_a_family_in_words_and_as_json(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    claim = played(tmp_path / "data").claim(FAMILY, RUN)
    code, words = call("--config", config)
    assert (code, words) == (0, explain(claim, "family motor, up to run run-2"))
    code, shown = call("--config", config, "--json")
    assert code == 0
    assert msgspec.json.decode(shown, type=PrivacyClaim) == claim
    assert json.loads(shown)["server"]["epsilon"] == claim.server.epsilon


def test_the_command_checks_a_release_against_the_ledger(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    accounts = played(tmp_path / "data")
    release = release_of(tmp_path, Provenance(privacy=accounts.claim(FAMILY, RUN)))
    play(
        accounts, 6, COHORT, noise=NOISE, sampling=EVERYBODY
    )  # the ledger has grown since: still the same beginning
    code, words = call("--config", config, "--release", release)
    assert code == 0
    assert "release motor/2, borne out by the ledger" in words

    cut_off(tmp_path / "data" / "privacy.sqlite", last=5)
    code, words = call("--config", config, "--release", release)
    assert code == 2
    assert "another ledger, or entries were cut off" in words


def cut_off(ledger: Path, *, last: int) -> None:
    db = sqlite3.connect(ledger)
    with db:
        db.execute("DROP TRIGGER entries_last")
        db.execute("DELETE FROM entries WHERE number > ?", (last,))
    db.close()


def test_an_auditor_reads_a_release_with_its_public_key_alone(tmp_path: Path) -> None:
    config_in(tmp_path)
    release = release_of(tmp_path, Provenance(privacy=played(tmp_path / "data").claim(FAMILY, RUN)))
    public = next(path for path in tmp_path.iterdir() if "pub" in path.name)
    code, words = call("--release", release, "--release-key", public)
    assert code == 0
    assert words.startswith("Privacy of release motor/2\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name --config aggregator.toml for the ledger, or --release"),
        (["--release", "v2.fedge"], "--release needs --release-key"),
        (["--config", "{}"], "there is no privacy ledger at"),
    ],
)
def test_the_command_says_what_is_missing(tmp_path: Path, arguments: list[str], words: str) -> None:
    config = config_in(tmp_path)
    code, said = call(*(part.format(config) for part in arguments))
    assert code == 2
    assert words in said


def test_the_command_asks_for_a_family_where_there_are_several(tmp_path: Path) -> None:
    config = config_in(tmp_path, ("motor", "pump"))
    played(tmp_path / "data")
    code, said = call("--config", config)
    assert (code, "name a --family: motor, pump" in said) == (2, True)
    code, said = call("--config", config, "--family", "pump")
    assert (code, "holds nothing of family 'pump'" in said) == (2, True)


def test_a_release_that_is_not_what_was_signed_or_claims_nothing_is_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    release = release_of(tmp_path, Provenance())
    assert "carries no privacy claim" in call("--config", config, "--release", release)[1]
    release.write_bytes(release.read_bytes()[:-1] + b"y")
    code, said = call("--config", config, "--release", release)
    assert (code, "cannot be trusted" in said) == (2, True)


def test_the_ledger_names_devices_and_the_claim_does_not(tmp_path: Path) -> None:
    claim = played(tmp_path).claim(FAMILY, RUN)
    assert DeviceId("device-001") in COHORT
    assert b"device-0" not in msgspec.json.encode(claim)


# --- claims of other builds, of other ways


def test_a_claim_of_a_build_that_knew_no_modes_is_read_and_shown(tmp_path: Path) -> None:
    claim = played(tmp_path).claim(FAMILY, RUN)
    told = json.loads(msgspec.json.encode(claim))
    old = {
        name: told[name]
        for name in told
        if name not in {"mode", "quorum", "groups", "curious", "lying", "poisoner"}
    }
    read = msgspec.json.decode(json.dumps(old), type=PrivacyClaim)
    assert (read.mode, read.quorum, read.groups, read.curious, read.poisoner) == (None, None, None, "", "")
    assert "Which way its rounds were run the claim does not say" in explain(read, "it")


@pytest.mark.parametrize("noise", [NOISE, SILENT])
def test_a_claim_names_the_mode_and_what_each_attacker_learns(tmp_path: Path, noise: object) -> None:
    accounts = accounts_at(tmp_path)
    play(accounts, 1, COHORT, participants=COHORT[:17], noise=noise, sampling=EVERYBODY, run="run-2")  # type: ignore[arg-type]
    claim = accounts.claim(FAMILY, RUN)
    assert (claim.mode, claim.quorum, claim.groups) == (
        (Mode.PRIVATE, 16, 1) if noise is NOISE else (Mode.ROBUST, 17, 1)
    )
    assert claim.poisoner.startswith("no protection against a poisoner")
    words = explain(claim, "it")
    for sentence in (claim.curious, claim.lying, claim.poisoner):
        assert f"{sentence}." in words
    assert ("epsilon_server" in claim.curious) == (noise is NOISE)


def test_groups_are_counted_where_the_fewest_made_a_step(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    for number, groups in ((1, 5), (2, 3)):
        for group in range(groups):
            name, members = (
                structs.replace(round_id(number, run="run-2"), group=group + 1),
                COHORT[4 * group : 4 * group + 4],
            )
            accounts.open_round(name, FAMILY, noise=SILENT, sampling=EVERYBODY, cohort=members)
            accounts.close_round(name, Outcome.USED, participants=members)
    claim = accounts.claim(FAMILY, RUN)
    assert (claim.mode, claim.groups, claim.quorum) == (Mode.ROBUST, 3, 4)
    assert (
        claim.poisoner
        == "a device moves the sum of its own group, and the model follows the median of 3 groups or more"
    )
    assert "with 2 of a group's 4 devices in its hand" in claim.lying


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        (3, "2 of a group's 3"),
        (4, "2 of a group's 4"),
        (6, "4 of a group's 6"),
        (7, "4 of a group's 7"),
        (11, "7 of a group's 11"),
    ],
)
def test_as_many_as_make_a_sum_with_each_of_the_others_read_the_rest_of_a_group(
    devices: int, told: str
) -> None:
    lying = who_learns_what(Mode.ROBUST, quorum=devices, multiplier=0.0, colluders=0, groups=1).lying
    whom = "the last one" if devices == 3 else "each of the others"
    assert lying.endswith(f"with {told} devices in its hand everything that {whom} answers")


def test_a_claim_in_plain_says_that_the_aggregator_saw_everything() -> None:
    claim = plain_claim(devices=4, used=6, void=1, delta=1e-6)
    assert (claim.mode, claim.server.epsilon, claim.release.epsilon) == (Mode.PLAIN, None, None)
    words = explain(claim, "it")
    assert "learns every answer of every device, one by one: there are no masks." in words
    assert "epsilon is unlimited, because answers were sent without masks." in words
    assert "Record: none; a ledger is kept of sums under masks." in words


def test_cohorts_that_went_from_round_to_round_are_told_in_one_sentence_that_fits(tmp_path: Path) -> None:
    accounts = accounts_at(tmp_path)
    for number in range(1, 40):
        drawn = poisson(0.1, 100 + number, quorum=4)
        play(accounts, number, COHORT, noise=NOISE, sampling=drawn, run="run-2")
    said = accounts.claim(FAMILY, RUN).sampling
    assert said.startswith(
        "Poisson, each of 101 to 139 devices with probability 0.1, again where more than 18 to 23 were;"
    )
    assert len(said) < 1000
