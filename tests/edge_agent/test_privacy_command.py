"""``fedge-agent privacy``: what a person is shown of the device's account, and whether a release's claim agrees with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from installation_world import RELEASE_KEY, make_bundle
from privacy_world import ALL, BARE, Owned, asked, devices, noise
from trust_repository import TrustRepository

from edge_agent.cli import main
from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy import elapsed
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from protocol.privacy_cost import RoundNoise, epsilon, planned_cost
from protocol.questions import COVARIANCE, FIT, SCALE

pytestmark = pytest.mark.edge

ROUND = noise(7.0)
COST = planned_cost(ROUND)


def account(folder: Path) -> DeviceAccount:
    return DeviceAccount(folder / "privacy.sqlite", OwnerLimits())


def give(budget: DeviceAccount, count: int, how: RoundNoise = ROUND) -> None:
    for number in range(count):
        question = asked(noise=how)
        budget.check_cohort(question, devices(ALL))
        budget.charge(question, now_s=100.0 + number)


def config_in(folder: Path, privacy: str = "") -> Path:
    config = folder / "agent.toml"
    config.write_text(
        'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n[trust]\nroot = "root.json"\n'
        f'[source]\nkind = "simulated"\n[privacy]\n{privacy}\n'
    )
    (folder / "state").mkdir()
    return config


def test_the_command_shows_a_device_that_never_took_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["privacy", "--config", str(config_in(tmp_path)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["participations"] == 0
    assert shown["epsilon"] == 0
    assert shown["maximum_participations"] == 10_000
    assert not (tmp_path / "state" / "privacy.sqlite").exists(), "looking makes no account"


def test_the_command_shows_what_was_given_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, "maximum_participations = 50\nmaximum_epsilon = 3.0\ndelta = 1e-5")
    with account(tmp_path / "state") as budget:
        give(budget, 4)
    assert main(["privacy", "--config", str(config), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["epsilon"] == pytest.approx(epsilon(COST.times(4), 1e-5))
    assert (shown["maximum_epsilon"], shown["noiseless"], shown["last_at_s"]) == (3.0, 0, 103.0)
    assert main(["privacy", "--config", str(config)]) == 0
    words = capsys.readouterr().out
    assert "4, 46 more are allowed" in words
    assert "1970-01-01 00:01 UTC" in words


def test_the_command_says_unlimited_after_an_answer_without_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path)
    with account(tmp_path / "state") as budget:
        give(budget, 1, BARE)
    main(["privacy", "--config", str(config), "--json"])
    assert json.loads(capsys.readouterr().out)["epsilon"] is None
    main(["privacy", "--config", str(config)])
    words = capsys.readouterr().out
    assert "unlimited" in words
    assert "require_noise = true in [privacy]" in " ".join(words.split())


def test_the_command_tells_of_a_damaged_account_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path)
    (tmp_path / "state" / "privacy.sqlite").write_bytes(b"damaged" * 1000)
    assert main(["privacy", "--config", str(config)]) == 2
    assert "the privacy account" in capsys.readouterr().err


def test_the_command_tells_of_an_account_that_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lived(tmp_path)
    (tmp_path / "state" / "privacy.sqlite").unlink()
    assert main(["privacy", "--config", str(config)]) == 2
    assert "it is gone, and the snapshot that it belongs to is still there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("maximum_epsilon = 0.0", "privacy.maximum_epsilon = 0.0 is not valid"),
        ("maximum_epsilon = inf", "maximum_epsilon = inf is not valid"),
        ("minimum_noise_multiplier = 1e-9", "privacy.minimum_noise_multiplier = 1e-09 is not valid"),
        ("delta = 0.9", "privacy.delta = 0.9 is not valid"),
    ],
)
def test_a_limit_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    assert main(["privacy", "--config", str(config_in(tmp_path, setting))]) == 2
    assert words in capsys.readouterr().err


def lived(folder: Path) -> Path:
    """A device that has answered a refit, and declined what came after; returns its agent.toml."""
    config = config_in(folder)
    device = Owned(folder / "state")
    device.watch(100)
    device.snapshot()
    device.answer(asked(SCALE))
    device.mask(asked(COVARIANCE))
    for number in range(3):
        device.answer(asked(FIT, round_number=number), "abcd")
    device.clock.pass_s(7200.0)
    with pytest.raises(PrivacyRefusedError) as declined:
        device.account.check_cohort(asked(FIT), devices("abce"))
    # As the learner's app does with every refusal (`edge_agent.learner.client_app`).
    device.account.refuse(declined.value.code, str(declined.value))
    device.account.close()
    return config


def test_the_command_shows_the_snapshot_what_was_asked_of_it_and_why_the_last_question_was_declined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lived(tmp_path)
    # the device's own clock goes on; a machine that is up for longer than a day is another start to it
    monkeypatch.setattr(elapsed, "kernel_boot", lambda: "boot-1")
    monkeypatch.setattr(elapsed, "boot_clock_s", lambda: 7400.0)
    assert main(["privacy", "--config", str(config), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["answers_today"], shown["answers_per_day"]) == (5, 40)
    snapshot = shown["snapshot"]
    assert (snapshot["number"], snapshot["windows"], snapshot["companions"]) == (1, 100, list(ALL))
    by_kind = {one.pop("kind"): one for one in snapshot["asked"]}
    assert by_kind[SCALE] == {"answered": 1, "answers_left": 2, "revealed": 1, "reveals_left": 0}
    assert by_kind[COVARIANCE] == {"answered": 1, "answers_left": 2, "revealed": 0, "reveals_left": 1}
    assert by_kind[FIT] == {"answered": 3, "answers_left": 27, "revealed": 3, "reveals_left": 7}
    assert shown["last_refusal"]["code"] == "COHORT"
    assert "asked was a sum over a, b, c, e" in shown["last_refusal"]["words"]
    assert main(["privacy", "--config", str(config)]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for told in (
        "5 of 40",
        "number 1, 100 windows",
        "after 32 new windows and 24 h",
        "answered 3, 27 more; revealed 3, 7 more",
        "a, b, c, d",
        "Declined last (COHORT, 2027-01-15 10:00 UTC): from this snapshot train.fit is summed with a, b, c, d only",
    ):
        assert told in words


def test_noise_that_is_required_is_shown_with_the_epsilon_that_it_implies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(tmp_path, "require_noise = true")
    assert main(["privacy", "--config", str(config)]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "allowed 8" in words
    assert "noise at least 1 times the clip" in words


def test_a_release_that_trained_on_this_device_and_claims_nothing_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lived(tmp_path)
    repository = TrustRepository(release_key=RELEASE_KEY, now=datetime.now(UTC))
    listed = make_bundle(3, key=Ed25519PrivateKey.generate())
    repository.list("pump/3", listed)
    repository.publish()
    repository.mirror(tmp_path / "state" / "trust")
    (tmp_path / "root.json").write_bytes(repository.pinned)
    release = tmp_path / "v2.fedge"
    command = ["privacy", "--config", str(config), "--release", str(release)]
    assert main(command) == 2
    assert "there is no release" in capsys.readouterr().err
    release.write_bytes(make_bundle(2))
    assert main(command) == 0
    assert "claims nothing about privacy, and this device had no part in it" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )
    release.write_bytes(make_bundle(2, training_run="run-1"))
    assert main([*command, "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["verdict"] == "differs"
    assert finding["words"].startswith("this device answered 5 questions in run run-1, and opened 4 sums")
    release.write_bytes(make_bundle(2, key=Ed25519PrivateKey.generate()))
    assert main(command) == 2
    assert "which is not trusted here" in capsys.readouterr().err
    release.write_bytes(listed)
    assert main(command) == 0, "whoever signed it: it is on the list"
